"""Which tokens stay when a BPE vocabulary is cut down to a domain, and why each of them does.

A token stays because the text holds it often enough, or because something names it (special tokens, the chat template, a
glossary), or so that every other string can still be spelled (the base symbols), or because merges build one of those through it.

Why the last set makes trimming exact: take a word whose tokens all stay. BPE merges the lowest-ranked adjacent pair,
leftmost first, and no merge of the word crosses the border of one of its final tokens; so inside each final token it took
the very steps that it takes on that token's own string. All of them are kept, in order, and removing other rules can't
change which of the remaining ones comes first. Hence one derivation a token is enough: not every ancestor in the merges.
:mod:`minigpts.vocabulary.dialect` refuses the tokenizers for which one of these steps is not so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minigpts.errors import UserError, blaming
from minigpts.model.chat_template import ChatTemplate
from minigpts.vocabulary import dialect
from minigpts.vocabulary.trim import ids_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# What a template that writes of tools alone is rendered with.
EXAMPLE_TOOL = {
    "type": "function",
    "function": {
        "name": "a",
        "description": "a",
        "parameters": {"type": "object", "properties": {"a": {"type": "string", "description": "a"}}, "required": ["a"]},
    },
}

# Why a token stays; one that has several reasons is booked under the first.
REASONS = ("counted", "special", "byte", "template", "glossary", "builds")


def tokens_to_keep(
    definition: Mapping[str, Any],
    counts: NDArray[np.int64],
    threshold: float,
    special: Iterable[int],
    template: Iterable[int],
    glossary: Iterable[int] = (),
) -> dict[int, str]:
    """:func:`closure` of the tokens whose share of all ``counts`` (number of ids,) is above ``threshold``.

    Raises UserError as that does, and when no token's share is above the threshold.
    """
    shares = counts / counts.sum()
    counted = {int(token_id) for token_id in np.flatnonzero(shares > threshold)}
    if not counted:
        raise UserError(
            f"params.yaml: embedding_threshold {threshold} drops every token; the most frequent has a share of {shares.max():.3g}"
        )
    return closure(definition, counted, special, template, glossary)


def closure(
    definition: Mapping[str, Any],
    counted: Iterable[int],
    special: Iterable[int],
    template: Iterable[int],
    glossary: Iterable[int] = (),
) -> dict[int, str]:
    """The ids that stay, ascending, each with the first of :data:`REASONS` that holds for it.

    ``definition`` is tokenizer.json as a dict; ``counted`` the ids that stay for their count, ``special`` those that configs
    name, ``template`` those of the chat template, ``glossary`` those of the user's terms. Raises UserError for a tokenizer that
    can't be trimmed exactly.
    """
    dialect.require_exact(definition)
    vocab = definition["model"]["vocab"]
    named = ids_of(definition) | {*special} | {vocab[token] for token in dialect.unknown(definition)}
    base = {vocab[symbol] for symbol in dialect.base_symbols(definition)}
    kept = _first_reasons({*counted}, named, base, {*template}, {*glossary})
    for symbol in builders((token for token, token_id in vocab.items() if token_id in kept), dialect.ranks(definition)):
        kept.setdefault(vocab[symbol], "builds")
    return dict(sorted(kept.items()))


def _first_reasons(*groups: Iterable[int]) -> dict[int, str]:
    kept: dict[int, str] = {}
    for reason, group in zip(REASONS, groups, strict=False):
        for token_id in group:
            kept.setdefault(token_id, reason)
    return kept


def builders(tokens: Iterable[str], ranks: dialect.Ranks) -> set[str]:
    """Every symbol of the derivations of ``tokens``.

    Longest first: what one derivation passes through was, for a while, a final token itself, so its own derivation is part
    of that one and need not be run again.
    """
    passed: set[str] = set()
    for token in sorted(tokens, key=len, reverse=True):
        if token not in passed:
            passed |= derivation(token, ranks)
    return passed


def derivation(token: str, ranks: dialect.Ranks) -> set[str]:
    """Every symbol that BPE passes through on ``token``'s own string, from its characters to itself.

    Empty when BPE does not end in ``token``: then no word is ever merged into it, and it needs no builders. (Such a token
    is an added one, or is looked up whole, with ``ignore_merges``.)
    """
    symbols = list(token)
    passed = set(symbols)
    never = len(ranks)
    pairs = [ranks.get(pair, never) for pair in pairwise(symbols)]
    while pairs:
        rank = min(pairs)
        if rank == never:
            return set()
        position = pairs.index(rank)  # the leftmost
        del pairs[position]
        symbols[position] += symbols.pop(position + 1)
        passed.add(symbols[position])
        if position > 0:
            pairs[position - 1] = ranks.get((symbols[position - 1], symbols[position]), never)
        if position < len(pairs):
            pairs[position] = ranks.get((symbols[position], symbols[position + 1]), never)
    return passed


def template_ids(directory: Path, tokenizer: Tokenizer) -> set[int]:
    """Ids of the tokens that a checkpoint's chat template writes, as :func:`written_ids`; none without ``chat_template.jinja``."""
    template = ChatTemplate.of(directory)
    return set() if template is None else written_ids(template, tokenizer)


def written_ids(template: ChatTemplate, tokenizer: Tokenizer) -> set[int]:
    """Ids of the tokens that a chat template writes, rendered around one-letter messages and piece by piece.

    Raises UserError, naming the template's file, for one that renders no conversation at all, even with a tool, and as ``render``.
    """
    with blaming(template.where, "the chat template doesn't work; mend it or remove it"):
        texts = {*template.literals, *_rendered_conversations(template)}
        return {token_id for text in texts for token_id in tokenizer.encode(text, add_special_tokens=False).ids}


def _rendered_conversations(template: ChatTemplate) -> list[str]:
    """Each conversation as the template writes it, with and without a prompt for an answer; with a tool if it needs one."""
    system, user, assistant = ({"role": role, "content": "a"} for role in ("system", "user", "assistant"))
    conversations = ([user], [system, user], [user, assistant, user, assistant], [system, user, assistant])
    rendered: list[str] = []
    for tools in (None, [EXAMPLE_TOOL]):
        for conversation, prompt in product(conversations, (False, True)):
            try:
                rendered.append(template.render(conversation, tools, prompt=prompt, day=_every_day))
            except UserError:
                raise
            except Exception as error:  # a template is a program: some refuse a system message, others fail without tools
                failure = error
        if rendered:
            return rendered
    raise failure


def _every_day(date_format: str) -> str:
    """A year's dates in one format: what is kept must not depend on the date."""
    new_year = date(2024, 1, 1)
    return " ".join((new_year + timedelta(days)).strftime(date_format) for days in range(366))
