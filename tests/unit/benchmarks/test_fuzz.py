"""Damaged files, the same every time, for every reader of strangers' files: one line, or a right result."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import strategies as st
from tokenizers import Tokenizer

from benchmarks.trust.fuzz import Tally, fuzz
from benchmarks.trust.readers import Reader, readers
from minigpts.errors import UserError
from tests.unit.vocabulary.builders import KINDS

EXAMPLES = 200  # of rows; a tenth and less of models
NAMES = (
    *(f"text {kind}" for kind in ("jsonl", "json", "csv", "tsv", "parquet", "txt")),
    *("encodings", "chats", "questions jsonl", "questions json", "questions of the paper", "questions csv", "terms", "obo"),
    *("params.yaml", "safetensors", "stages' files", "GGUF", "SentencePiece", "tokenizer.json", "chat template", "config.json"),
    *("settings of a model", *(f"trimmed {kind}" for kind in KINDS)),
)


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> dict[str, Reader]:
    return readers(tmp_path_factory.mktemp("models"))


def test_every_reader_is_tried(known):
    assert [*known] == [*NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_one_line_or_read_right(known, tmp_path, name):
    tally = fuzz(known[name], EXAMPLES, tmp_path / "input")
    assert tally.found == {}
    assert tally.outcomes.total() > 1


def tally_of(read, tmp_path: Path) -> Tally:
    return fuzz(Reader(st.just(("a.txt", b"text")), read), 1, tmp_path / "input")


def raising(error):
    def read(path):
        raise error

    return read


def test_what_breaks_the_law_is_found(tmp_path):
    def panicking(path):
        Tokenizer.from_str("{")

    lawless = [raising(KeyError("role")), raising(AssertionError("a row too few")), panicking]
    lawless.append(lambda path: bytearray(1 << 40))
    assert [tally_of(read, tmp_path).outcomes for read in lawless] == [{"wrong": 1}] * len(lawless)
    assert tally_of(raising(UserError("a.txt: no text")), tmp_path).outcomes == {"refused": 1}
