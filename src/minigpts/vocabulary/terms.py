"""Terms and their tokens: which tokens a glossary needs, and which words of a text a smaller vocabulary spells longer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Where a term may stand, with one-letter neighbours: begins a text, a line, follows a space, goes on, ends, is bracketed.
PLACES = ("{}", "\n{}", " {}", "a {} a", "a {}, a", "a {}.", "a ({}) a")
# A word as it stands, with the space before it, which byte-level BPE and SentencePiece make part of a token. Writing without
# spaces (kana, ideographs) goes character by character.
WORD = re.compile(r" ?(?:[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+)")
LISTED, NAMED = 200, 8  # words in the metrics, and in a warning


def spellings(term: str) -> list[str]:
    """The strings that a term must stay whole in: every place, as it stands and with its first letter in upper case."""
    forms = dict.fromkeys((term, term[:1].upper() + term[1:]))
    return [place.format(form) for form in forms for place in PLACES]


def token_ids(tokenizer: Tokenizer, terms: Iterable[str]) -> set[int]:
    """Ids of all the tokens that :func:`spellings` of ``terms`` are made of."""
    texts = [text for term in terms for text in spellings(term)]
    return {token_id for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False) for token_id in encoding.ids}


def spelled_longer(parent: Tokenizer, child: Tokenizer, texts: Sequence[str]) -> list[tuple[str, int]]:
    """The words of ``texts`` that ``child`` spells in more tokens than ``parent``, each with the number of texts that hold it.

    Most texts first, of equals in alphabetical order.
    """
    words = list(dict.fromkeys(word for text in texts for word in WORD.findall(text)))
    encodings = (tokenizer.encode_batch_fast(words, add_special_tokens=False) for tokenizer in (parent, child))
    longer = {word for word, before, after in zip(words, *encodings, strict=True) if len(after.ids) > len(before.ids)}
    found = Counter(word for text in texts for word in {word.strip() for word in WORD.findall(text) if word in longer})
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))


def listed(longer: Sequence[tuple[str, int]], at_most: int = LISTED) -> list[str]:
    """What :func:`spelled_longer` found, each word with its number of texts in brackets."""
    return [f"{word} ({number})" for word, number in longer[:at_most]]


def warning(longer: Sequence[tuple[str, int]]) -> str:
    """One line about the same."""
    named = ", ".join(listed(longer, NAMED))
    return (
        f"warning: the child spells {len(longer):,} words of the validation text in more tokens than the parent; by number of"
        f" documents: {named}{', …' if len(longer) > NAMED else ''}. dataset.keep_terms names what must stay whole"
    )
