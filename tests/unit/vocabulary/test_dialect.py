"""Which tokenizers are trimmed, and which are refused because the proof doesn't hold for them."""

from __future__ import annotations

from typing import Any

import pytest

from minigpts.errors import UserError
from minigpts.vocabulary.dialect import BYTE_TOKENS, base_symbols, ranks, require_exact
from tests.unit.vocabulary.builders import KINDS, byte_level, gpt2, sentencepiece_style

METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False}
FUSE, BYTES = {"type": "Fuse"}, {"type": "ByteFallback"}


def _model(**changes: Any) -> dict[str, Any]:
    return {"model": {**byte_level()["model"], **changes}}


def _pieces(merge: list[str], product: str) -> dict[str, Any]:
    model = sentencepiece_style()["model"]
    return {"model": {**model, "vocab": {**model["vocab"], product: 9999}, "merges": [*model["merges"], merge]}}


def _decoder(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"decoder": {"type": "Sequence", "decoders": list(steps)}}


@pytest.mark.parametrize("kind", KINDS)
def test_every_familys_dialect_is_taken(kind: str) -> None:
    require_exact(KINDS[kind]())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"type": "Unigram", "vocab": [["a", -1.0]]}}, "it is a Unigram tokenizer, and only BPE"),
        ({"model": {"type": "WordPiece", "vocab": {"a": 0}}}, "it is a WordPiece tokenizer, and only BPE"),
        (_model(end_of_word_suffix="</w>"), "end_of_word_suffix is '</w>'"),
        (_model(continuing_subword_prefix="##"), "continuing_subword_prefix is '##'"),
        (_model(dropout=0.1), "dropout is 0.1"),
        (_model(vocab={"a": 0, "b": 1, "c": 1}), "'b' and 'c' share the id 1"),
        ({"decoder": None}, "it has no decoder"),
        ({"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}, "its decoder WordPiece"),
        ({"pre_tokenizer": None}, "its decoder ByteLevel"),
    ],
)
def test_what_is_no_plain_byte_level_bpe_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"^tokenizer\.json: .*{message}.*; choose a model with another tokenizer$"):
        require_exact({**byte_level(), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (_pieces(["<0xE8>", "<0x82>"], "<0xE8><0x82>"), "it merges '<0xE8>' and '<0x82>', one of which is a byte token"),
        (_pieces(["<unk>", "a"], "<unk>a"), "it merges '<unk>' and 'a', one of which is a byte token or the unknown token"),
        (_decoder(METASPACE, BYTES, FUSE), "its decoder Metaspace"),
        (_decoder({"type": "Replace", "pattern": {"String": "▁▁"}, "content": " "}, BYTES, FUSE), "its decoder Replace"),
        (_decoder({"type": "Replace", "pattern": {"Regex": "▁"}, "content": " "}, BYTES, FUSE), "its decoder Replace"),
        (_decoder(BYTES, {"type": "Strip", "content": " ", "start": 1, "stop": 0}, FUSE), "its decoder Strip"),
    ],
)
def test_what_is_no_plain_sentencepiece_bpe_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"^tokenizer\.json: {message}"):
        require_exact({**sentencepiece_style(), **changes})


def test_byte_level_bpe_starts_from_the_symbols_of_bytes_alone() -> None:
    definition = byte_level()
    definition["model"]["vocab"] |= {"肺": 9998, "<0x41>": 9999}  # no byte's symbol, and no fallback that would reach it
    assert len(base_symbols(definition)) == 256 and not base_symbols(definition) & {"肺", "<0x41>"}
    definition["model"]["byte_fallback"] = True
    assert base_symbols(definition) == base_symbols(byte_level()) | {"<0x41>"}


def test_byte_fallback_stands_for_characters_only_where_it_is_whole_and_read_back() -> None:
    definition = sentencepiece_style()
    vocab = definition["model"]["vocab"]
    characters = {token for token in vocab if len(token) == 1}
    assert base_symbols(definition) == {*BYTE_TOKENS, "▁"}
    assert base_symbols({**definition, **_decoder(FUSE)}) == {*BYTE_TOKENS, *characters}
    del vocab["<0xE8>"]
    assert base_symbols(definition) == {*BYTE_TOKENS, *characters} - {"<0xE8>"}
    definition["model"]["byte_fallback"] = False
    assert base_symbols(definition) == characters


def test_ranks_are_places_in_both_spellings() -> None:
    assert list(ranks(gpt2())) == list(ranks(byte_level()))
    assert ranks({"model": {"merges": [["a", "b"], ["b", "c"], ["a", "b"]]}}) == {("a", "b"): 2, ("b", "c"): 1}
