"""llama.cpp itself, in this process: the C interface of the library in the xllamacpp wheel, as far as the tests need it."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

F16, F32 = 1, 0  # ggml_type


class Settings(ctypes.Structure):
    """llama_model_params or llama_context_params: passed by value, and larger than either."""

    _fields_ = [("raw", ctypes.c_uint8 * 512)]


class Batch(ctypes.Structure):
    """llama_batch."""

    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.POINTER(ctypes.c_float)),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


LOGGER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
MESSAGES: list[str] = []


@LOGGER
def _log(level: int, text: bytes, _data: object) -> None:
    MESSAGES.append(text.decode("utf-8", "replace"))


@cache
def library() -> ctypes.CDLL:
    """The wheel's library with the results of its functions declared, silenced."""
    import xllamacpp

    found = ctypes.CDLL(str(next(Path(xllamacpp.__file__).parent.glob("xllamacpp*.so"))))
    for name in ("llama_model_load_from_file", "llama_init_from_model", "llama_model_get_vocab", "llama_get_memory"):
        getattr(found, name).restype = ctypes.c_void_p
    for name in ("llama_model_default_params", "llama_context_default_params"):
        getattr(found, name).restype = Settings
    found.llama_batch_init.restype = Batch
    found.llama_get_logits.restype = ctypes.POINTER(ctypes.c_float)
    found.llama_vocab_get_text.restype = ctypes.c_char_p
    found.llama_log_set(_log, None)
    found.llama_backend_init()
    return found


class LlamaCpp:
    """A GGUF file loaded by llama.cpp, on one thread, its cache in float32 so that the comparison is of the models."""

    def __init__(self, path: Path, context: int = 256) -> None:
        self.library = library()
        MESSAGES.clear()
        model = self.library.llama_model_load_from_file(str(path).encode(), self.library.llama_model_default_params())
        assert model, f"llama.cpp refused {path}: {''.join(MESSAGES[-3:])}"
        self.model = ctypes.c_void_p(model)
        settings = self.library.llama_context_default_params()
        words = list(struct.unpack("128i", bytes(settings.raw)))
        words[0] = context
        cache_types = words.index(F16, 20)  # type_k, type_v: the first pair of types behind the rotary settings
        assert words[cache_types : cache_types + 2] == [F16, F16]
        words[cache_types : cache_types + 2] = [F32, F32]
        settings.raw[:] = struct.pack("128i", *words)
        self.context = ctypes.c_void_p(self.library.llama_init_from_model(self.model, settings))
        assert self.context.value, "".join(MESSAGES[-3:])
        self.library.llama_set_n_threads(self.context, 1, 1)
        self.vocab = ctypes.c_void_p(self.library.llama_model_get_vocab(self.model))
        self.num_tokens = self.library.llama_vocab_n_tokens(self.vocab)

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(self, *_: object) -> None:
        self.library.llama_free(self.context)
        self.library.llama_model_free(self.model)

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text, with what the file says stands around it, special tokens recognized."""
        raw = text.encode()
        ids = (ctypes.c_int32 * (len(raw) + 8))()
        count = self.library.llama_tokenize(self.vocab, raw, len(raw), ids, len(ids), ctypes.c_bool(True), ctypes.c_bool(True))
        assert count >= 0
        return list(ids[:count])

    def log_probabilities(self, ids: Sequence[int]) -> np.ndarray:
        """Of every next token after each of ``ids``: float64 (len(ids), vocabulary)."""
        batch = self.library.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for place, token in enumerate(ids):
            batch.token[place], batch.pos[place], batch.n_seq_id[place], batch.logits[place] = token, place, 1, 1
            batch.seq_id[place][0] = 0
        self.library.llama_memory_clear(ctypes.c_void_p(self.library.llama_get_memory(self.context)), ctypes.c_bool(True))
        assert self.library.llama_decode(self.context, batch) == 0
        logits = np.ctypeslib.as_array(self.library.llama_get_logits(self.context), (len(ids), self.num_tokens)).astype(np.float64)
        self.library.llama_batch_free(batch)
        shifted = logits - logits.max(-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
