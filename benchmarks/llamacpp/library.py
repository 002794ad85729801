"""llama.cpp's own rounding of one weight, by the shared library inside the ``xllamacpp`` wheel.

``pip install --no-deps xllamacpp==2026.10.11549``. Every type is rounded by ``ggml_quantize_chunk``, with the importance of the
columns where it is given, and comes back through :mod:`gguf`.
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from minigpts.errors import UserError

WHEEL = "xllamacpp==2026.10.11549"
FLOATS = ctypes.POINTER(ctypes.c_float)


@cache
def library() -> ctypes.CDLL:
    """llama.cpp as a shared library. Raises UserError when the wheel isn't installed."""
    spec = find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        raise UserError(f"llama.cpp isn't here; run `pip install --no-deps {WHEEL}`")
    loaded = ctypes.CDLL(str(next(Path(spec.origin).parent.glob("xllamacpp*.so"))))
    whole, pointer = ctypes.c_int64, ctypes.c_void_p
    loaded.ggml_row_size.argtypes, loaded.ggml_row_size.restype = [ctypes.c_int, whole], ctypes.c_size_t
    # type, source, destination, first weight, rows, weights a row, importance of a row's weights
    loaded.ggml_quantize_chunk.argtypes = [ctypes.c_int, FLOATS, pointer, whole, whole, whole, FLOATS]
    loaded.ggml_quantize_chunk.restype = ctypes.c_size_t
    return loaded


def as_floats(values: np.ndarray) -> ctypes._Pointer[ctypes.c_float]:
    """Where contiguous float32 ``values`` lie; they must outlive the call."""
    return values.ctypes.data_as(FLOATS)


def packed(weight: np.ndarray, name: str, importance: np.ndarray | None = None) -> np.ndarray:
    """A weight (rows, columns) in llama.cpp's type ``name``: uint8 (rows, bytes of a row).

    ``importance`` (columns,) is the mean square of the inputs that the columns meet; without it the type's own rule weighs them.
    Raises UserError for an unknown type, or rows that are no multiple of its block.
    """
    if name not in GGMLQuantizationType.__members__:
        raise UserError(f"unknown type '{name}' of llama.cpp")
    kind = GGMLQuantizationType[name]
    rows, columns = weight.shape
    if columns % GGML_QUANT_SIZES[kind][0]:
        raise UserError(f"{name} takes rows of a multiple of {GGML_QUANT_SIZES[kind][0]} weights, got {columns}")
    source = np.ascontiguousarray(weight, dtype=np.float32)
    weights = None if importance is None else np.ascontiguousarray(importance, dtype=np.float32)
    out = np.zeros((rows, library().ggml_row_size(kind, columns)), dtype=np.uint8)
    given = None if weights is None else as_floats(weights)
    written = library().ggml_quantize_chunk(kind, as_floats(source), out.ctypes.data, 0, rows, columns, given)
    if written != out.size:
        raise UserError(f"llama.cpp wrote {written:,} bytes of {name}, expected {out.size:,}; install {WHEEL}")
    return out


def rounded(weight: np.ndarray, name: str, importance: np.ndarray | None = None) -> np.ndarray:
    """What is left of a weight (rows, columns) that was :func:`packed`; float32 of the same shape."""
    return dequantize(packed(weight, name, importance), GGMLQuantizationType[name])
