"""llama.cpp's own quantizing of a whole file, with its mixtures of types (Q4_K_M and the like) and an importance matrix.

The wheel lacks it; the npm package has it: ``npm install --prefix FOLDER @node-llama-cpp/linux-x64@3.22.1``. Called by ctypes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf import LlamaFileType

from benchmarks.llamacpp.library import FLOATS, as_floats
from minigpts import artifacts
from minigpts.errors import UserError

PACKAGE = "@node-llama-cpp/linux-x64"
INSTALL = f"npm install --prefix FOLDER {PACKAGE}@3.22.1"
LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
ERROR = 4  # a level of its log


class _Importance(ctypes.Structure):
    """``llama_model_imatrix_data``; a list of them ends with one without a name."""

    _fields_ = [("name", ctypes.c_char_p), ("data", FLOATS), ("size", ctypes.c_size_t)]


class _Params(ctypes.Structure):
    """``llama_model_quantize_params`` of llama.cpp v0.5.0, which that npm package holds."""

    _fields_ = [
        ("nthread", ctypes.c_int32),
        ("ftype", ctypes.c_int32),
        ("output_tensor_type", ctypes.c_int32),
        ("token_embedding_type", ctypes.c_int32),
        ("allow_requantize", ctypes.c_bool),
        ("quantize_output_tensor", ctypes.c_bool),
        ("only_copy", ctypes.c_bool),
        ("pure", ctypes.c_bool),
        ("keep_split", ctypes.c_bool),
        ("dry_run", ctypes.c_bool),
        ("imatrix", ctypes.POINTER(_Importance)),
        ("kv_overrides", ctypes.c_void_p),
        ("tt_overrides", ctypes.c_void_p),
        ("prune_layers", ctypes.c_void_p),
    ]


def library(folder: Path) -> ctypes.CDLL:
    """The shared library of the package that was installed in ``folder``. Raises UserError when it isn't there."""
    found = sorted((folder / "node_modules" / PACKAGE).glob("bins/*/libllama.v*.so"))
    if not found:
        raise UserError(f"{folder}: no {PACKAGE}; run `{INSTALL}`")
    loaded = ctypes.CDLL(str(found[0]))
    loaded.llama_model_quantize_default_params.restype = _Params
    loaded.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(_Params)]
    loaded.llama_model_quantize.restype = ctypes.c_uint32
    return loaded


def quantize(
    source: Path, out: Path, mixture: str, importance: Mapping[str, np.ndarray], folder: Path, num_threads: int = 1
) -> None:
    """Write the GGUF file ``source`` (F32 or BF16) as ``out`` in a mixture of llama.cpp's: Q8_0, Q4_K_M, IQ4_XS, …

    ``importance`` is the mean square of the inputs (columns,) by GGUF's name of the tensor; a tensor it lacks is rounded without.
    Raises UserError for an unknown mixture, and with llama.cpp's own words where it fails.
    """
    if f"MOSTLY_{mixture}" not in LlamaFileType.__members__:
        raise UserError(f"unknown mixture '{mixture}' of llama.cpp")
    loaded = library(folder)
    errors: list[str] = []

    def log(level: int, text: bytes, _: object) -> None:
        if level == ERROR:
            errors.append(text.decode(errors="replace").strip())

    keeps_log = LOG(log)  # lives as long as this call
    loaded.llama_log_set(keeps_log, None)
    params = loaded.llama_model_quantize_default_params()
    params.nthread, params.ftype = num_threads, LlamaFileType[f"MOSTLY_{mixture}"]
    arrays = {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in importance.items()}
    entries = [_Importance(name.encode(), as_floats(values), values.size) for name, values in arrays.items()]
    params.imatrix = (_Importance * (len(entries) + 1))(*entries)
    with artifacts.replacing(out) as temporary:
        failed = loaded.llama_model_quantize(str(source).encode(), str(temporary).encode(), ctypes.byref(params))
        loaded.llama_log_set(LOG(0), None)
        if failed:
            raise UserError(f"{source}: llama.cpp can't quantize it to {mixture}: {errors[-1] if errors else 'no message'}")
