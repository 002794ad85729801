"""Renders software licences as legal prose and as questions, from ScanCode's collection of some 2,300 licence texts.

Licences copy one another. Two that share text, or the first word of their key, are of one family, and a family shares a split.
A passage that mostly repeats an earlier one is skipped. A question asks which term has a definition, among other terms that the
same family defines.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import yaml
from numpy.typing import NDArray

from minigpts.corpus.document import Document, Question, normalized
from minigpts.corpus.domains.components import first_of_component
from minigpts.corpus.passages import passages
from minigpts.corpus.words import words_of
from minigpts.errors import UserError

SOURCE = "licences"
QUESTION = "Which term has this definition in a licence? {definition}"

RUN = 8  # words: short enough to see through a name filled in
BOILERPLATE = 20  # licences: a run of words that more of them have, as in "provided by the copyright holders", joins no family
FAMILY = 0.3  # of a licence's other runs of words in one other licence make them a family
REPEATED = 0.5  # of a passage's runs of words in earlier ones make it a repetition
SHORTEST = 100  # characters of a passage
WRAPPED = 50  # characters: a shorter line ends where its author ended it
# Of a passage's words, at least. Measured: English has 0.25 to 0.42, Microsoft's paragraphs for Quebec at most 0.03, a passage
# with both lies between.
ENGLISH = 0.2
COMMON = frozenset(
    ["the", "of", "to", "and", "or", "in", "any", "is", "this", "that", "for", "with", "by", "you", "be", "as", "not"]
)
BEYOND_ASCII = 0.05  # of a passage's characters, at most: some agreements stand in two languages side by side
LEFT_OUT_CATEGORIES = ("Unstated License",)  # notes that a licence exists

_FRONT_MATTER = re.compile(r"---\n(.*?\n)---[ \t]*(?:\n|\Z)(.*)", re.DOTALL)
_ITEM = re.compile(r"(?:[-*•o·]|\(?[0-9a-zA-Z]{1,4}[.)]|[0-9]+(?:\.[0-9]+)+\.?)\s")
_RULER = re.compile(r"[\W_]*")
_DEFINITION = re.compile(
    r"[\"“](?P<term>[A-Z][A-Za-z' -]{2,40})[\"”](?: \([^()]*\))?,? (?:shall |will )?(?:means?|refers? to|is defined as) "
    r"(?!the meaning)(?P<definition>[^“”\"]{40,400}?[.;])(?=\s|$)"
)


@dataclass(frozen=True)
class Licence:
    """A licence text with the collection's facts about it."""

    key: str  # "gpl-2.0-plus"
    category: str  # "Copyleft"
    language: str  # "en"
    paragraphs: tuple[str, ...]  # a line each


def parse(key: str, content: str) -> Licence:
    """Parse one file of the collection, with its lines joined to paragraphs. Raises UserError for a file of another form."""
    parts = _FRONT_MATTER.fullmatch(content)
    facts = yaml.load(parts[1], yaml.CSafeLoader) if parts else None  # the C one takes 1 s for all of them, the other 40
    if parts is None or not isinstance(facts, dict):
        raise UserError(f"{key}.LICENSE: has no front matter between lines of '---'")
    return Licence(key, str(facts.get("category", "")), str(facts.get("language", "en")), tuple(_paragraphs(parts[2])))


def _paragraphs(text: str) -> Iterator[str]:
    """Paragraphs on one line each: a new one begins after a blank or a short line, and with an item of a list."""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for blank, block in groupby(lines, key=lambda line: not line or _RULER.fullmatch(line) is not None):
        if blank:
            continue
        paragraph, previous = "", ""
        for line in block:
            if paragraph and (len(previous) < WRAPPED or _ITEM.match(line)):
                yield paragraph
                paragraph = ""
            paragraph, previous = f"{paragraph} {line}".strip(), line
        yield paragraph


def used(licences: Iterable[Licence]) -> list[Licence]:
    """The English licences, the longest first, so that of two versions the shorter one counts as the repetition."""
    kept = (item for item in licences if item.language == "en" and item.category not in LEFT_OUT_CATEGORIES)
    return sorted(kept, key=lambda item: (-sum(map(len, item.paragraphs)), item.key))


def groups(licences: Sequence[Licence]) -> dict[str, str]:
    """A group for each key, the same for licences of one family (connected components)."""
    first_of_name: dict[str, str] = {}
    pairs = [(item.key, first_of_name.setdefault(item.key.split("-")[0], item.key)) for item in licences]
    sharing = _sharing(["\n".join(item.paragraphs) for item in licences])
    pairs += ((licences[one].key, licences[other].key) for one, other in sharing)
    return {key: f"{SOURCE}:{first}" for key, first in first_of_component((item.key for item in licences), pairs).items()}


def _sharing(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Pairs of texts, the later first, with ``FAMILY`` of its own runs of words in the other, where they occur first."""
    words, total = words_of(texts), len(texts)
    owners = words.text_of(np.arange(len(words.hashes)))
    runs, first, run_of = np.unique(words.shingles(RUN), return_index=True, return_inverse=True)
    run, text = np.divmod(np.unique(run_of * total + owners), total)  # each run of each text once
    special = np.bincount(run, minlength=len(runs))[run] <= BOILERPLATE
    run, text = run[special], text[special]
    own = np.bincount(text, minlength=total)
    pairs, shared = np.unique(text * total + owners[first[run]], return_counts=True)
    for one, other, count in zip(*np.divmod(pairs, total), shared, strict=True):
        if other < one and count >= FAMILY * own[one]:
            yield int(one), int(other)


def documents(licences: Sequence[Licence], group_of: Mapping[str, str], dropped: Counter[str]) -> Iterator[Document]:
    """The licences' passages. Counts in ``dropped`` those that are short, not English, or repeat earlier ones."""
    found = [(item.key, passage) for item in licences for passage in passages(["\n".join(item.paragraphs)])]
    repeated = _repeated([passage for _, passage in found])
    for (key, passage), share in zip(found, repeated, strict=True):
        if len(passage) < SHORTEST:
            dropped["short passages"] += 1
        elif not _english(passage):
            dropped["passages that aren't English"] += 1
        elif share > REPEATED:
            dropped["passages that repeat earlier ones"] += 1
        else:
            yield Document(passage, group_of[key], SOURCE)


def _repeated(texts: Sequence[str]) -> NDArray[np.float64]:
    """The share of each text's runs of words that stand in an earlier text, (texts,)."""
    words = words_of(texts)
    owners = words.text_of(np.arange(len(words.hashes)))
    _, first, run_of = np.unique(words.shingles(RUN), return_index=True, return_inverse=True)
    earlier = owners[first[run_of]] < owners
    return np.bincount(owners, earlier, len(texts)) / np.maximum(np.bincount(owners, minlength=len(texts)), 1)


def questions(licences: Sequence[Licence], group_of: Mapping[str, str]) -> Iterator[Question]:
    """Questions that ask for the term of a definition: the right term first, then three terms that the same family defines.

    Skips definitions that name their term, repeat another's words, or belong to a family with too few other terms.
    """
    terms: dict[str, dict[str, str]] = {}  # by group: a term's words to the term
    found: dict[str, tuple[str, str, str, str]] = {}  # a definition's words to its key, group, term and text
    for item in licences:
        for paragraph in item.paragraphs:
            for match in _DEFINITION.finditer(paragraph):
                term, definition = match["term"].strip(), match["definition"].rstrip(";.") + "."
                terms.setdefault(group_of[item.key], {}).setdefault(normalized(term), term)
                if not _names(definition, term):
                    found.setdefault(normalized(definition), (item.key, group_of[item.key], term, definition))
    for key, group, term, definition in found.values():
        id_ = f"{key}: {term}: {hashlib.sha256(definition.encode()).hexdigest()[:8]}"
        wrong = _distractors(id_, term, definition, terms[group].values())
        if len(wrong) == 3:
            yield Question(id_, QUESTION.format(definition=_capital(definition)), (term, *wrong), 0, group, definition)


def _distractors(id_: str, term: str, definition: str, others: Iterable[str]) -> list[str]:
    """Three of the other terms in a random order fixed by the id, none of them part of another or of the definition."""
    chosen = [term]
    for other in sorted(others, key=lambda other: hashlib.sha256(f"{id_} {other}".encode()).digest()):
        alike = any(_stems(other) <= _stems(each) or _stems(each) <= _stems(other) for each in chosen)
        if len(chosen) < 4 and not alike and not _names(definition, other):
            chosen.append(other)
    return chosen[1:]


def _stems(text: str) -> set[str]:
    """The beginnings of its words: Derivative Work and Derived Works are no choice."""
    return {word[:5] for word in normalized(text).split()}


def _names(definition: str, term: str) -> bool:
    return _stems(term) <= _stems(definition)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _english(text: str) -> bool:
    words = normalized(text).split()
    common = sum(word in COMMON for word in words)
    return common >= ENGLISH * len(words) and sum(not c.isascii() for c in text) <= BEYOND_ASCII * len(text)
