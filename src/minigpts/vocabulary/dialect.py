"""What kind of BPE a tokenizer.json holds: its merge rules, the symbols it starts from, and whether it can be trimmed exactly.

Byte-level BPE (GPT-2, OPT, GPT-NeoX, Phi, Qwen, Llama 3, StableLM, tekken) starts from 256 characters that stand for bytes;
SentencePiece's BPE (Llama 2, Mistral, Phi-3, Gemma) from characters, and spells those it doesn't know as ``<0x00>`` to
``<0xFF>``. Normalizers, pre-tokenizers and added tokens act before the model and are the same in parent and child.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from minigpts.errors import UserError

BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))  # what SentencePiece falls back to

Ranks = Mapping[tuple[str, str], int]


def parts_of(merge: str | Sequence[str]) -> tuple[str, str]:
    """The two symbols of a merge, which tokenizer.json spells ``"a b"`` or ``["a", "b"]``."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def ranks(definition: Mapping[str, Any]) -> Ranks:
    """The place of each merge in the order of the rules; of a repeated one the last, as in the ``tokenizers`` library."""
    return {parts_of(merge): rank for rank, merge in enumerate(definition["model"]["merges"])}


def unknown(definition: Mapping[str, Any]) -> set[str]:
    """The token that stands for what can't be spelled, where there is one."""
    model = definition["model"]
    return {model.get("unk_token")} & model["vocab"].keys()


def base_symbols(definition: Mapping[str, Any]) -> set[str]:
    """The symbols of the vocabulary that BPE starts from, without which a string would not be spelled as the parent spells it.

    Byte-level: the symbols of the bytes. With a complete byte fallback: the 256 byte tokens, and the characters that the
    decoder looks for, which it would not find in bytes. Otherwise every character, and what byte tokens there are.
    """
    model = definition["model"]
    vocab = model["vocab"].keys()
    fallback = set(BYTE_TOKENS) if model.get("byte_fallback") else set()
    if _is_byte_level(definition):
        return vocab & (_byte_symbols() | fallback)
    decoder = _steps(definition.get("decoder"))
    if fallback and fallback <= vocab and "ByteFallback" in {step["type"] for step in decoder}:
        return fallback | (vocab & {character for step in decoder for character in _sought(step)})
    return vocab & (fallback | {token for token in vocab if len(token) == 1})


def require_exact(definition: Mapping[str, Any], where: str = "tokenizer.json") -> None:
    """Raise a UserError, naming the file ``where`` and the reason, if a trimmed tokenizer could split or decode differently."""
    reason = _obstacle(definition)
    if reason:
        raise UserError(f"{where}: {reason}; choose a model with another tokenizer")


def _obstacle(definition: Mapping[str, Any]) -> str | None:
    model = definition["model"]
    if "merges" not in model:
        return f"it is a {model.get('type')} tokenizer, and only BPE tokenizers can be trimmed"
    for field in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(field):
            return f"its {field} is {model[field]!r}, and a trimmed BPE tokenizer with one would split words differently"
    return _shared_id(model["vocab"]) or _merge_of_stand_in(definition) or _decoder_between_tokens(definition)


def _shared_id(vocab: Mapping[str, int]) -> str | None:
    if len(set(vocab.values())) == len(vocab):
        return None
    first: dict[int, str] = {}
    token, other = next((token, first[token_id]) for token, token_id in vocab.items() if first.setdefault(token_id, token) != token)
    return f"its tokens {other!r} and {token!r} share the id {vocab[token]}"


def _merge_of_stand_in(definition: Mapping[str, Any]) -> str | None:
    """A byte or unknown token stands for characters it isn't spelled with, so its own string doesn't derive it."""
    stand_ins = unknown(definition) | (set(BYTE_TOKENS) if definition["model"].get("byte_fallback") else set())
    for left, right in map(parts_of, definition["model"]["merges"] if stand_ins else ()):
        if left in stand_ins or right in stand_ins or left + right in stand_ins:
            return f"it merges {left!r} and {right!r}, one of which is a byte token or the unknown token"
    return None


def _decoder_between_tokens(definition: Mapping[str, Any]) -> str | None:
    """Decoding must not depend on where tokens begin and end, since a string that held a removed token is split elsewhere."""
    steps = _steps(definition.get("decoder"))
    if not steps:
        return "it has no decoder, so the decoded text depends on how it was split into tokens"
    for step in steps:
        kind = step["type"]
        if kind == "Fuse":  # from here on there is one string
            break
        by_character = (
            (kind == "ByteLevel" and _is_byte_level(definition))
            or (kind == "Replace" and len(step["pattern"].get("String", "")) == 1)
            or (kind == "Metaspace" and step.get("prepend_scheme") == "never")
            or kind == "ByteFallback"
        )
        if not by_character:
            return f"its decoder {kind} makes the decoded text depend on how it was split into tokens"
    return None


def _steps(node: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or decoder in order, sequences laid flat."""
    if node is None:
        return []
    if node["type"] != "Sequence":
        return [node]
    parts = next(value for value in node.values() if isinstance(value, list))
    return [step for part in parts for step in _steps(part)]


def _sought(step: Mapping[str, Any]) -> str:
    """The character that a decoder's step looks for in tokens."""
    return step["pattern"].get("String", "") if step["type"] == "Replace" else step.get("replacement", "")


def _is_byte_level(definition: Mapping[str, Any]) -> bool:
    steps = _steps(definition.get("normalizer")) + _steps(definition.get("pre_tokenizer"))
    return "ByteLevel" in {step["type"] for step in steps}


@cache
def _byte_symbols() -> frozenset[str]:
    """The characters that stand for the 256 bytes in a byte-level vocabulary."""
    from tokenizers.pre_tokenizers import ByteLevel

    return frozenset(ByteLevel.alphabet())
