"""Renders ICD-10-CM's tabular list as text: one document for each three-character category.

The list has 46,881 codes, most of which repeat their parent with a side of the body or an encounter added. A category's
document has its notes and the codes that say something new; where room is short, only the general ones.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

from minigpts.corpus.document import Document

SOURCE = "icd-10-cm"
MAX_CHARACTERS = 1500  # of a category's document
# External causes (a bicycle against a tram) and codes for special purposes: lists of circumstances, hardly medical language.
LEFT_OUT_CHAPTERS = ("20", "22")

_NOTES = (
    ("includes", "Includes: "),
    ("inclusionTerm", "Includes: "),
    ("excludes1", "Excludes: "),
    ("excludes2", "Not included here: "),
    ("codeFirst", "Code first "),  # the notes go on: "underlying disease", ", if applicable, sepsis"
    ("useAdditionalCode", "Use additional "),
    ("codeAlso", "Code also "),
)
_REPEATS = re.compile(r"\b(?:right|left|bilateral|unspecified|other specified)\b", re.IGNORECASE)
_CODES = re.compile(r"\s*\([^()]*\b[A-Z]\d[0-9A-Z](?:\.[0-9A-Z]*)?-?[^()]*\)")


def documents(xml: bytes) -> Iterator[Document]:
    """One document for each category, grouped by its block (A00-A09), in the order of the list."""
    root = ElementTree.fromstring(xml)
    for chapter in root.iterfind("chapter"):
        if chapter.findtext("name") in LEFT_OUT_CHAPTERS:
            continue
        for block in chapter.iterfind("section"):
            for category in block.iterfind("diag"):
                yield Document(render(category), f"{SOURCE}:{block.get('id')}", SOURCE)


def version(xml: bytes) -> str:
    """The release's year, as the list states it."""
    return ElementTree.fromstring(xml).findtext("version") or "unknown"


def render(category: ElementTree.Element) -> str:
    """Title, notes and codes of one category, a line each; without the deeper codes where it would exceed the cap."""
    head = [f"{_text(category, 'desc')} (ICD-10-CM {_text(category, 'name')})", *_notes(category)]
    codes = [code for code in category.iter("diag") if code is not category and not _REPEATS.search(_text(code, "desc"))]
    for deepest in (7, 5, 4):  # characters of a code: E11.621, E11.62, E11.6
        lines = [*head, *(_code_line(code) for code in codes if len(_text(code, "name").replace(".", "")) <= deepest)]
        if sum(len(line) + 1 for line in lines) <= MAX_CHARACTERS:
            break
    kept: list[str] = []
    size = 0
    for line in lines:
        size += len(line) + 1
        if kept and size > MAX_CHARACTERS:
            break
        kept.append(line)
    return "\n".join(kept)


def _notes(element: ElementTree.Element) -> list[str]:
    lines = []
    for tag, title in _NOTES:
        notes = [_clean(note.text or "") for holder in element.findall(tag) for note in holder.findall("note")]
        if any(notes):
            lines.append(f"{title}{'; '.join(filter(None, notes))}".replace(":;", ":").replace(" ,", ","))
    return lines


def _code_line(code: ElementTree.Element) -> str:
    terms = [_clean(note.text or "") for note in code.findall("inclusionTerm/note")]
    also = f" ({'; '.join(filter(None, terms[:3]))})" if terms else ""
    return f"{_text(code, 'name')} {_text(code, 'desc')}{also}"


def _clean(note: str) -> str:
    """The note without the codes it points to."""
    return " ".join(_CODES.sub("", note).split())


def _text(element: ElementTree.Element, tag: str) -> str:
    return " ".join((element.findtext(tag) or "").split())
