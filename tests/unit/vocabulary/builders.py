"""Every family's dialect of BPE in small, as tokenizer.json dicts: what the model files on the hub look like, part by part."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from minigpts.vocabulary.dialect import BYTE_TOKENS
from tests import tiny

Definition = dict[str, Any]

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
AFTER_SPLIT = {**BYTE_LEVEL, "use_regex": False}
# Words with their leading space, numbers of up to three digits, punctuation with the line ends behind it, white space.
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLIT_WORDS = {
    "type": "Sequence",
    "pretokenizers": [{"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": False}, AFTER_SPLIT],
}


def _added(token_id: int, content: str, special: bool = True, normalized: bool = False) -> Definition:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": normalized, "special": special}
    return {"id": token_id, "content": content, **flags}


def _in_front(token: str, token_id: int) -> Definition:
    """A post-processor that puts one special token before the text."""
    first = {"SpecialToken": {"id": token, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [first, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [token_id], "tokens": [token]}},
    }


@cache
def _trained_byte_level() -> str:
    with TemporaryDirectory() as directory:
        tiny.write_tokenizer(Path(directory))
        return (Path(directory) / "tokenizer.json").read_text()


def byte_level() -> Definition:
    """tests/tiny.py's own: a byte-level BPE with three special tokens and digits split off."""
    return json.loads(_trained_byte_level())


def _old_merges(definition: Definition) -> Definition:
    """Merges as files had them before 2024: ``"a b"``."""
    definition["model"]["merges"] = [" ".join(merge) for merge in definition["model"]["merges"]]
    return definition


def _append(definition: Definition, contents: list[str], **flags: bool) -> Definition:
    """Added tokens outside of the model's vocabulary, behind it."""
    start = 1 + max(*definition["model"]["vocab"].values(), *(token["id"] for token in definition["added_tokens"]))
    definition["added_tokens"] += [_added(start + place, content, **flags) for place, content in enumerate(contents)]
    return definition


def gpt2() -> Definition:
    """GPT-2: one special token, the vocabulary's last; the merges in the old spelling."""
    definition = _old_merges(byte_level())
    model = definition["model"]
    tokens = [token for token in sorted(model["vocab"], key=model["vocab"].get) if token not in tiny.SPECIAL]
    model["vocab"] = {token: token_id for token_id, token in enumerate([*tokens, "<|endoftext|>"])}
    after = {**BYTE_LEVEL, "trim_offsets": False}
    return {
        **definition,
        "added_tokens": [_added(len(tokens), "<|endoftext|>")],
        "pre_tokenizer": BYTE_LEVEL,
        "post_processor": after,
    }


def opt() -> Definition:
    """OPT: GPT-2's with ``</s>`` in front of every text."""
    definition = gpt2()
    end = definition["model"]["vocab"]["</s>"] = len(definition["model"]["vocab"])
    definition["added_tokens"].append(_added(end, "</s>"))
    return {**definition, "post_processor": _in_front("</s>", end)}


def roberta_like() -> Definition:
    """GPT-2's between ``<s>`` and ``</s>``, by the post-processor that names its tokens and ids in pairs."""
    ends = {"sep": ["<|im_end|>", 2], "cls": ["<|im_start|>", 1]}
    return {
        **byte_level(),
        "pre_tokenizer": BYTE_LEVEL,
        "post_processor": {"type": "RobertaProcessing", **ends, "trim_offsets": True, "add_prefix_space": False},
    }


def neox() -> Definition:
    """GPT-NeoX and Pythia, Phi and CodeGen: NFC, and runs of spaces as added tokens behind the vocabulary."""
    definition = {**byte_level(), "normalizer": {"type": "NFC"}, "pre_tokenizer": BYTE_LEVEL, "post_processor": BYTE_LEVEL}
    return _append(definition, [" " * length for length in range(24, 1, -1)], special=False, normalized=True)


def qwen2() -> Definition:
    """Qwen 2 and 3: NFC, a split by regex, chat tokens behind the vocabulary, some of them not special."""
    definition = {**byte_level(), "normalizer": {"type": "NFC"}, "pre_tokenizer": SPLIT_WORDS, "post_processor": AFTER_SPLIT}
    return _append(_append(definition, ["<|vision_start|>"]), ["<think>", "</think>"], special=False)


def llama3() -> Definition:
    """Llama 3: whole words are looked up first, so " lungs" is a token that no merge makes; BOS in front; tokens in reserve."""
    definition = _old_merges(byte_level())
    definition["model"]["ignore_merges"] = True
    definition["model"]["vocab"]["Ġlungs"] = len(definition["model"]["vocab"])
    begin = len(definition["model"]["vocab"])
    after = {"type": "Sequence", "processors": [AFTER_SPLIT, _in_front("<|begin_of_text|>", begin)]}
    definition = {**definition, "pre_tokenizer": SPLIT_WORDS, "post_processor": after}
    return _append(definition, ["<|begin_of_text|>", *(f"<|reserved_special_token_{place}|>" for place in range(5))])


@cache
def _trained_pieces() -> tuple[str, ...]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator([*tiny.sentences(300), "ä ö ü ß 肺 心"], trainers.BpeTrainer(vocab_size=300, show_progress=False))
    vocab = tokenizer.get_vocab()
    return tuple(sorted(vocab, key=vocab.__getitem__))


def _sentencepiece(special: list[str], pieces: list[str]) -> Definition:
    """Special tokens, the 256 bytes, then pieces; every split of a piece into two is a merge, as converters write them."""
    vocab = {token: token_id for token_id, token in enumerate([*special, *BYTE_TOKENS, *pieces])}
    splits = [(piece[:cut], piece[cut:]) for piece in pieces for cut in range(1, len(piece))]
    return {
        "version": "1.0",
        "added_tokens": [_added(token_id, token) for token_id, token in enumerate(special)],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
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


STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
SPACE_SIGN = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}


def sentencepiece_style() -> Definition:
    """Llama 2, Mistral v1 and Phi-3: ``▁`` for a space and before the text, byte fallback, ``<s>`` in front."""
    definition = _sentencepiece(["<unk>", "<s>", "</s>"], list(_trained_pieces()))
    definition["decoder"]["decoders"].append(STRIP)
    before = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, SPACE_SIGN]}
    return {**definition, "normalizer": before, "post_processor": _in_front("<s>", 1)}


def metaspace() -> Definition:
    """The same where ``legacy`` is false: a pre-tokenizer writes the ``▁``, once, and not behind special tokens."""
    sign = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    return {**sentencepiece_style(), "normalizer": None, "pre_tokenizer": sign}


def gemma() -> Definition:
    """Gemma: no ``▁`` in front; runs of ``▁`` and of line ends are added tokens and vocabulary both; ``<unusedN>``."""
    runs = [sign * length for sign in ("\n", "▁") for length in range(2, 6)]
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<unused0>", "<unused1>"]
    definition = _sentencepiece(special, ["\n", *_trained_pieces(), *runs])
    vocab = definition["model"]["vocab"]
    definition["added_tokens"] += [_added(vocab[run], run, special=False) for run in runs]
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    return {**definition, "normalizer": SPACE_SIGN, "pre_tokenizer": split, "post_processor": _in_front("<bos>", 2)}


KINDS = {
    "byte-level": byte_level,
    "gpt2": gpt2,
    "opt": opt,
    "roberta": roberta_like,
    "neox": neox,
    "qwen2": qwen2,
    "llama3": llama3,
    "sentencepiece": sentencepiece_style,
    "metaspace": metaspace,
    "gemma": gemma,
}
