"""Which tokens stay when a BPE vocabulary is cut down to a domain, and why each of them does.

A token stays because the text holds it often enough, or because something names it (special tokens, the chat template),
or so that every other string can still be spelled (the base symbols), or because merges build one of those through it.

Why the last set makes trimming exact: take a word whose tokens all stay. BPE merges the lowest-ranked adjacent pair,
leftmost first, and no merge of the word crosses the border of one of its final tokens; so inside each final token it took
the very steps that it takes on that token's own string. All of them are kept, in order, and removing other rules can't
change which of the remaining ones comes first. Hence one derivation a token is enough: not every ancestor in the merges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minigpts.errors import UserError
from minigpts.vocabulary.trim import ids_of, parts_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

# Why a token stays; one that has several reasons is booked under the first.
REASONS = ("counted", "special", "byte", "template", "builds")

BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))  # what SentencePiece falls back to

Ranks = Mapping[tuple[str, str], int]


def tokens_to_keep(
    definition: Mapping[str, Any], counts: NDArray[np.int64], threshold: float, special: Iterable[int], template: Iterable[int]
) -> dict[int, str]:
    """The ids that stay, ascending, each with the first of :data:`REASONS` that holds for it.

    ``definition`` is tokenizer.json as a dict; ``counts`` (number of ids,) the occurrences of each id, of which those stay
    whose share of all is above ``threshold``; ``special`` the ids that configs name, ``template`` those of the chat template.
    Raises UserError for another model than plain BPE, and when no token's share is above the threshold.
    """
    require_plain_bpe(definition)
    vocab = definition["model"]["vocab"]
    shares = counts / counts.sum()
    counted = {int(token_id) for token_id in np.flatnonzero(shares > threshold)}
    if not counted:
        raise UserError(
            f"params.yaml: embedding_threshold {threshold} drops every token; the most frequent has a share of {shares.max():.3g}"
        )
    base = {vocab[symbol] for symbol in base_symbols(definition)}
    kept = _first_reasons(counted, ids_of(definition) | {*special} | _unknown(definition), base, {*template})
    ranks = {parts_of(merge): rank for rank, merge in enumerate(definition["model"]["merges"])}
    for token in [token for token, token_id in vocab.items() if token_id in kept]:
        for symbol in derivation(token, ranks):
            kept.setdefault(vocab[symbol], "builds")
    return dict(sorted(kept.items()))


def _first_reasons(*groups: Iterable[int]) -> dict[int, str]:
    kept: dict[int, str] = {}
    for reason, group in zip(REASONS, groups, strict=False):
        for token_id in group:
            kept.setdefault(token_id, reason)
    return kept


def require_plain_bpe(definition: Mapping[str, Any]) -> None:
    """Raise UserError unless the tokenizer is BPE whose symbols are spelled as they stand, and always splits the same way."""
    model = definition["model"]
    if "merges" not in model:
        raise UserError(
            f"tokenizer.json: only BPE can be trimmed, not {model.get('type', 'this model')}; take a model with a BPE tokenizer"
        )
    for field in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(field):
            raise UserError(f"tokenizer.json: BPE with {field} {model[field]!r} can't be trimmed; take a model without it")


def base_symbols(definition: Mapping[str, Any]) -> set[str]:
    """The symbols that BPE starts from, without which a string could not be spelled.

    With byte fallback they are the 256 byte tokens, and the characters that the normalizer puts in and the decoder looks
    for; otherwise every one-character token (of a byte-level vocabulary: its byte symbols).
    """
    model = definition["model"]
    vocab = model["vocab"]
    if model.get("byte_fallback") and all(token in vocab for token in BYTE_TOKENS):
        named = {
            character for part in ("normalizer", "pre_tokenizer", "decoder") for character in _characters(definition.get(part))
        }
        return {*BYTE_TOKENS, *(named & vocab.keys())}
    return {token for token in vocab if len(token) == 1}


def _characters(node: Any) -> Iterator[str]:
    """Characters of the literal strings in a normalizer, pre-tokenizer or decoder, such as the ``▁`` of SentencePiece."""
    if isinstance(node, list):
        for item in node:
            yield from _characters(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in ("content", "String", "prepend", "replacement") and isinstance(value, str):
                yield from value
            else:
                yield from _characters(value)


def _unknown(definition: Mapping[str, Any]) -> set[int]:
    model = definition["model"]
    return {model["vocab"][model["unk_token"]]} if model.get("unk_token") in model["vocab"] else set()


def derivation(token: str, ranks: Ranks) -> set[str]:
    """Every symbol that BPE passes through on ``token``'s own string, from its characters to itself.

    Empty when BPE does not end in ``token``: then no word is ever merged into it, and it needs no builders. (Such a token
    is an added one, or is looked up whole, with ``ignore_merges``.)
    """
    symbols = list(token)
    passed = set(symbols)
    while len(symbols) > 1:
        rank, position = min((ranks.get(pair, len(ranks)), position) for position, pair in enumerate(pairwise(symbols)))
        if rank == len(ranks):
            return set()
        symbols[position : position + 2] = ["".join(symbols[position : position + 2])]
        passed.add(symbols[position])
    return passed


def template_ids(stock: PreTrainedTokenizerBase, tokenizer: Tokenizer) -> set[int]:
    """Ids of the tokens that the chat template writes, rendered around one-letter messages and piece by piece.

    ``stock`` is the checkpoint's AutoTokenizer, which holds the template; ``tokenizer`` its ``tokenizers`` counterpart.
    """
    if not stock.chat_template:
        return set()
    texts = [*_template_literals(stock.chat_template), *_rendered_conversations(stock)]
    return {token_id for text in texts for token_id in tokenizer.encode(text, add_special_tokens=False).ids}


def _template_literals(template: str) -> list[str]:
    """The text between a Jinja template's tags and the strings inside them, trimmed as transformers has Jinja trim them."""
    from jinja2 import Environment

    stream = Environment(trim_blocks=True, lstrip_blocks=True).lexer.tokenize(template)
    return [token.value for token in stream if token.type in ("data", "string")]


def _rendered_conversations(stock: PreTrainedTokenizerBase) -> Iterator[str]:
    from jinja2 import TemplateError

    system, user, assistant = ({"role": role, "content": "a"} for role in ("system", "user", "assistant"))
    for conversation in ([user], [system, user], [user, assistant, user, assistant], [system, user, assistant]):
        for add_generation_prompt in (False, True):
            try:
                yield stock.apply_chat_template(conversation, tokenize=False, add_generation_prompt=add_generation_prompt)
            except TemplateError:  # some templates refuse a system message
                continue
