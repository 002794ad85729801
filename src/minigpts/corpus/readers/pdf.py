"""The running text of a pdf file: lines joined into paragraphs, without what stands at the edge of page after page.

A pdf knows where characters stand, and nothing of words, lines or paragraphs. pdfium finds words, lines and their order; here
lines become paragraphs by the space between them, their indents, their lengths and the size of their letters.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from minigpts.corpus.document import IDEOGRAPH

MOST_LINES = 5_000  # on a page; finding paragraphs compares each with its neighbours, and the widest of all
EDGE = 3  # lines at the top of a page, and as many at its bottom, that may be a running head or foot
LONGEST_HEAD = 250  # characters of a running head or foot at most
APART = 1.2  # times the usual distance of two lines: a new paragraph
RESIZED = 1.15  # times the height of the line before: a heading, or a note
SHORT, VERY_SHORT = 0.1, 0.35  # of a column's width left free at the end of a line

_HYPHEN = "\x02"  # pdfium's mark of a hyphen where a line ends in the middle of a word
_NUMBER = re.compile(r"\d{1,5}")
_ENDED = re.compile(r"[.!?:;。！？：；][\"'”’»)\]」』）\d]*$")
_ITEM = re.compile(r"[•◦▪‣●○■–—*-]\s|\(?\d{1,3}[.)]\s|\[\d{1,3}\]\s")
_LIGATURES = {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFB00, 0xFB07)}  # ﬁ, ﬂ …


@dataclass(frozen=True)
class Line:
    """A line of text, and where it stands on its page: in points, from the page's left and bottom."""

    text: str
    left: float
    right: float
    bottom: float
    height: float  # of its letters


def text(content: bytes) -> str:
    """The text of a pdf file's pages, with a blank line between paragraphs.

    Raises ValueError where there is none on any page or no end of lines on one, and what pdfium raises for a file that is broken
    or encrypted.
    """
    import pypdfium2

    document = pypdfium2.PdfDocument(content)
    try:
        pages = [list(_lines(page.get_textpage())) for page in document]
    finally:
        document.close()
    if not any(pages):
        raise ValueError("no text on its pages, which may be scans")
    if any(len(page) > MOST_LINES for page in pages):
        raise ValueError(f"a page of more than {MOST_LINES:,} lines")
    return "\n\n".join(paragraphs(without_edges(pages)))


def _lines(page: Any) -> Iterator[Line]:
    """The lines of a page, in pdfium's order; one broken in a word ends with ``_HYPHEN``."""
    from pypdfium2.raw import FPDFText_GetUnicode

    characters = "".join(chr(FPDFText_GetUnicode(page, place)) for place in range(page.count_chars()))
    for match in re.finditer(rf"[^\r\n{_HYPHEN}]+{_HYPHEN}?", characters):
        line = match[0].removesuffix(_HYPHEN)
        if line.isspace():
            continue
        typical = line.index(max(line.split(), key=len))  # of the longest word: a bullet or a note's number has another size
        first, last = len(line) - len(line.lstrip()), len(line.rstrip()) - 1
        boxes = [page.get_charbox(match.start() + place, loose=True) for place in (first, last, typical)]
        (left, _, _, _), (_, _, right, _), (_, bottom, _, top) = boxes
        yield Line(match[0].strip().translate(_LIGATURES), left, right, bottom, top - bottom)


def without_edges(pages: Sequence[Sequence[Line]]) -> list[list[Line]]:
    """The pages without the lines that come again near another page's edge, at the same height.

    They are the same but for a number that goes up with the pages: running heads and feet, and page numbers alone.
    """
    edges = [_edges(page) for page in pages]
    keys = [{line: _keys(line, number) for line in lines} for number, lines in enumerate(edges)]
    seen = Counter(key for lines in keys for key in set().union(*lines.values()))
    return [
        [line for line in page if not any(seen[key] > 1 for key in known.get(line, ()))]
        for page, known in zip(pages, keys, strict=True)
    ]


def _edges(page: Sequence[Line]) -> set[Line]:
    from_bottom = sorted(page, key=lambda line: line.bottom)
    return {line for line in (*from_bottom[:EDGE], *from_bottom[-EDGE:]) if len(line.text) <= LONGEST_HEAD}


def _keys(line: Line, page: int) -> set[tuple[str, int | None, int]]:
    """What a running head on page number ``page`` has in common with its like: text, page number minus ``page``, and height."""
    height = round(line.bottom)
    counted = {
        (f"{line.text[: found.start()]}#{line.text[found.end() :]}", int(found[0]) - page, height)
        for found in _NUMBER.finditer(line.text)
    }
    return {(line.text, None, height), *counted}


def paragraphs(pages: Sequence[Sequence[Line]]) -> Iterator[str]:
    """The lines of the pages, joined where one goes on with the line before, be that on another page or in another column."""
    steps = [
        one.bottom - two.bottom for page in pages for one, two in pairwise(page) if 0 < one.bottom - two.bottom < 3 * one.height
    ]
    usual = median(steps) if steps else 0.0
    paragraph, before = "", None
    for page in pages:
        for number, line in enumerate(page):
            if before is not None and _goes_on(before, line, page if number else (), usual):
                paragraph = _joined(paragraph, line.text)
            else:
                if paragraph:
                    yield paragraph.replace(_HYPHEN, "-")
                paragraph = line.text
            before = line
    if paragraph:
        yield paragraph.replace(_HYPHEN, "-")


def _goes_on(before: Line, line: Line, page: Sequence[Line], usual: float) -> bool:
    """Whether a line belongs to the paragraph of the line before, both of ``page``; that is empty for a page's first line."""
    if before.text.endswith(_HYPHEN):
        return True
    ended = _ENDED.search(before.text) is not None
    if _ITEM.match(line.text) or not 1 / RESIZED < line.height / max(before.height, 1e-6) < RESIZED:
        return False
    step = before.bottom - line.bottom
    if not page or step <= 0:  # a new page or column
        return not ended
    if step > APART * usual or (ended and line.left - before.left > line.height):
        return False
    edge = max(other.right for other in page if abs(other.left - before.left) < 2 * before.height)
    free = (edge - before.right) / max(edge - before.left, 1e-6)
    return not (free > SHORT and ended) and not (free > VERY_SHORT and not line.text[:1].islower())


def _joined(paragraph: str, text: str) -> str:
    """A paragraph and its next line: a word broken by a hyphen becomes one again."""
    if paragraph.endswith((_HYPHEN, "-")) and paragraph[-2:-1].isalpha():
        return (paragraph[:-1] if text[:1].islower() else f"{paragraph[:-1]}-") + text
    between = "" if IDEOGRAPH.match(paragraph[-1:]) and IDEOGRAPH.match(text[:1]) else " "
    return paragraph + between + text
