"""The tokenizer in a GGUF file's metadata (``tokenizer.ggml.*``), such that llama.cpp gives every text the same tokens.

llama.cpp has two kinds of BPE: ``gpt2``, byte-level with merges and a split named by ``pre``; and ``llama``, SentencePiece's, in
which the pair whose product has the highest score is merged first. The split is named by what tokenizer.json says it does:
trimming a vocabulary leaves that as it is, where a hash of token ids, by which llama.cpp's own converter goes, changes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpts import artifacts
from minigpts.errors import UserError
from minigpts.exporting.chat_template import turn_end
from minigpts.exporting.hyperparameters import Fields
from minigpts.model import checkpoint
from minigpts.vocabulary.dialect import BYTE_TOKENS, parts_of, ranks

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # gguf.TokenType
SPACE = "▁"  # SentencePiece's

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # what ByteLevel's own regex is
DIGIT = r"\p{N}"
_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
THREE_DIGITS, ONE_DIGIT = _CL100K.format(digits="{1,3}"), _CL100K.format(digits="")
# Regexes a text is split by, one after the other, and whether a whole word that is a token skips the merges: llama.cpp's name.
SPLITS = {
    ((GPT2,), False): "gpt-2",
    ((DIGIT, GPT2), False): "smollm",
    ((THREE_DIGITS,), True): "llama-bpe",
    ((THREE_DIGITS,), False): "dbrx",
    ((ONE_DIGIT,), False): "qwen2",
}
NORMALIZED = (None, "NFC")  # llama.cpp normalizes nothing: a text that isn't in NFC gets other tokens
SPECIAL_KEYS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def tokenizer_section(directory: Path, vocab_size: int) -> Fields:
    """The section of a checkpoint folder's tokenizer, with its chat template.

    ``vocab_size`` is the embedding's: rows beyond the tokenizer's tokens get names of their own. Raises UserError for a split,
    normalization or post-processing that llama.cpp doesn't have.
    """
    path = directory / "tokenizer.json"
    tokenizer = checkpoint.load_fast_tokenizer(directory)
    definition = artifacts.read_json(path)
    byte_level = any(step["type"] == "ByteLevel" for step in _steps(definition.get("pre_tokenizer"), "pretokenizers"))
    kind = _byte_level(definition, path) if byte_level else _sentencepiece(definition, path)
    return {
        **kind,
        **_tokens(definition, vocab_size, byte_level),
        **_specials(directory, tokenizer, path),
        **_template(directory, tokenizer),
    }


def _steps(section: Mapping[str, Any] | None, members: str) -> list[Mapping[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, sequences opened."""
    if section is None:
        return []
    if section["type"] == "Sequence":
        return [step for member in section[members] for step in _steps(member, members)]
    return [section]


def _byte_level(definition: Mapping[str, Any], path: Path) -> Fields:
    steps = _steps(definition["pre_tokenizer"], "pretokenizers")
    split = (tuple(filter(None, map(_regex, steps))), bool(definition["model"].get("ignore_merges")))
    if split not in SPLITS or any(step.get("add_prefix_space") for step in steps):
        raise UserError(
            f"{path}: llama.cpp has no name for the pre-tokenizer {json.dumps(definition['pre_tokenizer'])};"
            f" known: {', '.join(SPLITS.values())}; set export.formats: []"
        )
    for step in _steps(definition.get("normalizer"), "normalizers"):
        if step["type"] not in NORMALIZED:
            raise UserError(f"{path}: llama.cpp has no normalizer {step['type']} for byte-level BPE; set export.formats: []")
    merges = [" ".join(parts_of(merge)) for merge in definition["model"]["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": SPLITS[split],
        **({"tokenizer.ggml.merges": merges} if merges else {}),
        "tokenizer.ggml.add_space_prefix": False,
    }


def _regex(step: Mapping[str, Any]) -> str | None:
    """What one pre-tokenizer splits by; None for one that only spells bytes, its own JSON for one that is unknown here."""
    match step:
        case {"type": "ByteLevel"}:
            return GPT2 if step.get("use_regex", True) else None
        case {"type": "Digits", "individual_digits": True}:
            return DIGIT
        case {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}:
            return regex
    return json.dumps(step)


def _sentencepiece(definition: Mapping[str, Any], path: Path) -> Fields:
    """SentencePiece's kind: scores in place of merges. Raises UserError for what isn't one."""
    model, problem = definition["model"], None
    before = [*_steps(definition.get("normalizer"), "normalizers"), *_steps(definition.get("pre_tokenizer"), "pretokenizers")]
    unknown = [step["type"] for step in before if not _spells_spaces(step)]
    if model["type"] != "BPE" or not set(BYTE_TOKENS) <= model["vocab"].keys():
        problem = f"a {model['type']} tokenizer without a token for each byte"
    elif unknown:
        problem = f"a step {', '.join(unknown)} before SentencePiece's BPE"
    elif not any(SPACE in json.dumps(step, ensure_ascii=False) for step in before):
        problem = f"SentencePiece's BPE without {SPACE} for spaces"
    if problem:
        raise UserError(f"{path}: llama.cpp doesn't have {problem}; set export.formats: []")
    prefix = any(step["type"] == "Prepend" or step.get("prepend_scheme", "never") != "never" for step in before)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.add_space_prefix": prefix,
    }


def _spells_spaces(step: Mapping[str, Any]) -> bool:
    """Whether a step does no more than SentencePiece does: write ▁ for a space, before the text too, and split there."""
    match step:
        case {"type": "Prepend", "prepend": "▁"} | {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}:
            return True
        case {"type": "Metaspace", "replacement": "▁"}:
            return not step.get("split", True)
        case {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}:
            return True
    return False


def _tokens(definition: Mapping[str, Any], vocab_size: int, byte_level: bool) -> Fields:
    """Tokens by id with their types and, of SentencePiece's, their scores."""
    model = definition["model"]
    texts = [f"[PAD{index}]" for index in range(vocab_size)]  # rows of the embedding without a token
    types, scores = [UNUSED] * vocab_size, [0.0] * vocab_size
    scored = {} if byte_level else _scores(definition)
    for token, index in model["vocab"].items():
        texts[index], types[index] = token, NORMAL
        scores[index] = scored.get(token, -1e9)  # no merge makes it: never the best of a pair
        if not byte_level and token in BYTE_TOKENS:
            types[index] = BYTE
    for token in definition["added_tokens"]:
        content = token["content"] if byte_level or not token["normalized"] else token["content"].replace(SPACE, " ")
        texts[token["id"]], types[token["id"]] = content, CONTROL if token["special"] else USER_DEFINED
    if not byte_level and model.get("unk_token") in model["vocab"]:
        types[model["vocab"][model["unk_token"]]] = UNKNOWN
    fields: Fields = {"tokenizer.ggml.tokens": texts, "tokenizer.ggml.token_type": types}
    return fields if byte_level else {**fields, "tokenizer.ggml.scores": scores}


def _scores(definition: Mapping[str, Any]) -> dict[str, float]:
    """Minus the rank of the first merge that makes a token."""
    scores: dict[str, float] = {}
    for (left, right), rank in ranks(definition).items():
        scores[left + right] = max(scores.get(left + right, -1e9), -float(rank))
    return scores


def _specials(directory: Path, tokenizer: Tokenizer, path: Path) -> Fields:
    """Ids of the special tokens, and which of them stand around every text."""
    settings = artifacts.read_json(directory / "tokenizer_config.json")
    fields: Fields = {}
    for role, key in SPECIAL_KEYS.items():
        token_id = tokenizer.token_to_id(_text(settings[role])) if settings.get(role) else None
        if token_id is not None:
            fields[f"tokenizer.ggml.{key}_token_id"] = token_id
    around = tokenizer.encode("").ids
    bos, eos = (fields.get(f"tokenizer.ggml.{key}_token_id") for key in ("bos", "eos"))
    for add_bos, add_eos in ((False, False), (True, False), (False, True), (True, True)):
        if around == [*([bos] if add_bos else []), *([eos] if add_eos else [])]:
            return {**fields, "tokenizer.ggml.add_bos_token": add_bos, "tokenizer.ggml.add_eos_token": add_eos}
    names = ", ".join(str(tokenizer.id_to_token(token_id)) for token_id in around)
    raise UserError(f"{path}: llama.cpp can't put {names} around a text; set export.formats: []")


def _text(token: str | Mapping[str, Any]) -> str:
    """A token as tokenizer_config.json has it: its text, or an object that holds it."""
    return token if isinstance(token, str) else str(token["content"])


def _template(directory: Path, tokenizer: Tokenizer) -> Fields:
    """The chat template, and the token that ends a turn in it."""
    path = directory / "chat_template.jinja"
    if not path.exists():
        return {}
    fields: Fields = {"tokenizer.chat_template": path.read_text(encoding="utf-8")}
    ends = turn_end(directory, tokenizer)
    if ends is not None:
        fields["tokenizer.ggml.eot_token_id"] = ends
    return fields
