"""Reads the Human Phenotype Ontology's ``hp.obo`` (OBO 1.2) into terms with clean text.

The file has stanzas of ``tag: value`` lines. Values have backslash escapes; definitions and synonyms are quoted and followed by
their scope and references. What the curators wrote for one another is dropped, and no sentence is reworded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_VALUE = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(.*)')
_ESCAPE = re.compile(r"\\(.)")
# References to papers, figures, other vocabularies and other terms: for curators, not for readers.
_CITED = r"(?:PMID|PMC\d|DOI|doi:|NCIT|NCI thesaurus|BirnLex|https?:|www\.|xref=|HP:\d|Journal of)"
_ASIDE = re.compile(rf"\s*(?:\([^()]*{_CITED}[^()]*\)|\[[^\[\]]*{_CITED}[^\[\]]*\]|\{{[^{{}}]*{_CITED}[^{{}}]*\}})", re.IGNORECASE)
_CITATION = re.compile(rf"{_CITED}|\bHPO\b")
_EDITORIAL = re.compile(
    rf"{_CITED}|\bHPO\b|\b[Oo]ntology|GitHub|BRIDGE|\b[Pp]revious(?:ly)?(?: def)?\b.{{0,5}}:|\bannotat|\bcoded\b|\bcoding\b"
    r"|\b[Tt]h(?:is|e|ese) (?:\w+ )?terms?\b|\bbundled\b|\bsubclass|\bsynonym|\bhierarchy\b|\bNote that\b"
)
_SENTENCE_END = re.compile(r"(?<=[.?!])\s+(?=[A-Z])")


@dataclass
class Term:
    """One live term of the ontology."""

    id: str = ""
    name: str = ""
    definition: str = ""  # whole sentences, or nothing
    comment: str = ""  # likewise
    synonyms: list[str] = field(default_factory=list)  # exact ones in American spelling
    parents: list[str] = field(default_factory=list)
    obsolete: bool = False


def parse(obo: str) -> tuple[dict[str, Term], str]:
    """Every term that isn't obsolete, by id, and the release (the header's ``data-version``)."""
    header, *stanzas = re.split(r"\n\s*\n", obo)
    version = re.search(r"^data-version: (\S+)", header, re.MULTILINE)
    terms = [_term(stanza) for stanza in stanzas if stanza.lstrip().startswith("[Term]")]
    return {term.id: term for term in terms if not term.obsolete}, version.group(1) if version else "unknown"


def _term(stanza: str) -> Term:
    term = Term()
    for line in stanza.strip().splitlines()[1:]:
        tag, _, value = line.partition(": ")
        match tag:
            case "id":
                term.id = value.strip()
            case "name":
                term.name = _unescaped(value)
            case "def":
                term.definition = prose(_quoted(value)[0], _CITATION)
            case "comment":
                term.comment = prose(_unescaped(value), _EDITORIAL)
            case "synonym":
                text, rest = _quoted(value)
                if re.match(r"EXACT(?: layperson| abbreviation)? \[", rest):
                    term.synonyms.append(text)
            case "is_a":
                term.parents += value.split()[:1]
            case "is_obsolete":
                term.obsolete = value.strip() == "true"
    return term


def _quoted(value: str) -> tuple[str, str]:
    """The text in quotes, unescaped, and what follows it (scope and references)."""
    match = _VALUE.match(value)
    return (_unescaped(match.group(1)), match.group(2)) if match else ("", "")


def _unescaped(value: str) -> str:
    text = _ESCAPE.sub(lambda found: " " if found.group(1) in "nWt" else found.group(1), value)
    return " ".join(text.split())


def prose(text: str, editorial: re.Pattern[str]) -> str:
    """Clean sentences without references, up to the first sentence for curators (``editorial``).

    The rest is dropped as a whole, so that no sentence loses the one it refers to.
    """
    text = _ASIDE.sub("", text)
    kept = []
    for sentence in _SENTENCE_END.split(text):
        if editorial.search(sentence):
            break
        kept.append(sentence)
    text = re.sub(r"\s+([.,;:)])", r"\1", " ".join(" ".join(kept).split()))
    text = re.sub(r"([,;.])\1+", r"\1", text).rstrip(" ,;:")
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if re.search(r"[.?!][\"')]*$", text) else ".")
