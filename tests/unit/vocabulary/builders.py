"""Tokenizers of other kinds than tests/tiny.py's, as tokenizer.json dicts."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from minigpts.vocabulary.keep import BYTE_TOKENS
from tests import tiny


@cache
def _trained_byte_level() -> str:
    with TemporaryDirectory() as directory:
        tiny.write_tokenizer(Path(directory))
        return (Path(directory) / "tokenizer.json").read_text()


def byte_level() -> dict[str, Any]:
    """tests/tiny.py's own: a byte-level BPE with three special tokens and digits split off."""
    return json.loads(_trained_byte_level())


def ignoring_merges() -> dict[str, Any]:
    """Looks whole words up first, as Llama 3 does; " lungs" is a token that no merge makes."""
    definition = byte_level()
    definition["model"]["ignore_merges"] = True
    definition["model"]["vocab"]["Ġlungs"] = len(definition["model"]["vocab"])
    return definition


@cache
def _trained_pieces() -> tuple[str, ...]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator([*tiny.sentences(300), "ä ö ü ß 肺 心"], trainers.BpeTrainer(vocab_size=300, show_progress=False))
    return tuple(sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id))


def sentencepiece_style() -> dict[str, Any]:
    """As a converted Llama 2: ``▁`` for a space, byte fallback, every split of a token as a merge, and a ``<s>`` in front."""
    pieces = _trained_pieces()
    vocab = {token: token_id for token_id, token in enumerate(["<unk>", "<s>", "</s>", *BYTE_TOKENS, *pieces])}
    splits = [(piece[:cut], piece[cut:]) for piece in pieces for cut in range(1, len(piece))]
    special = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "added_tokens": [{"id": token_id, "content": token, **special} for token_id, token in enumerate(["<unk>", "<s>", "</s>"])],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocab,
            "merges": [[left, right] for left, right in splits if left in vocab and right in vocab],
        },
    }


KINDS = {"byte-level": byte_level, "ignore_merges": ignoring_merges, "sentencepiece": sentencepiece_style}
