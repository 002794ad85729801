"""Cuts long text into passages where a reader would pause: between paragraphs, else lines, sentences or words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# Characters. About what a window of 1,024 tokens holds in English: evaluation and training cut longer documents anyway, blindly,
# and the splits' caps, the leak check and the share of a split are only as fine as the documents.
LONGEST = 4096
_PAUSES = (
    re.compile(r"\n\s*\n"),
    re.compile(r"\n"),  # text without blank lines has its paragraphs on lines of their own
    re.compile(r"[.!?…][\"'”’»)\]]*\s|[。！？][」』”’）]*"),
    re.compile(r"\s"),
)


def passages(blocks: Iterable[str]) -> Iterator[str]:
    """The text of ``blocks``, joined, in passages of at most ``LONGEST`` characters, stripped, none empty.

    Every passage but the last is at least half as long, unless blank. It ends at the last pause in its second half, of the best
    kind there, or in the middle of a word where there is no pause. Memory holds a block and two passages, so a file may be of any
    length. The passages don't depend on where the blocks end.
    """
    rest = ""
    for block in blocks:
        rest += block
        start = 0
        while len(rest) - start > 2 * LONGEST:
            end = _pause(rest, start + LONGEST // 2, start + LONGEST)
            yield from _stripped(rest[start:end])
            start = end
        rest = rest[start:]
    while len(rest) > LONGEST:
        # A last passage of a few words would be a document of its own: it gets a quarter at least.
        end = _pause(rest, LONGEST // 2, min(LONGEST, len(rest) - LONGEST // 4))
        yield from _stripped(rest[:end])
        rest = rest[end:]
    yield from _stripped(rest)


def _pause(text: str, low: int, high: int) -> int:
    """The end of the last pause of ``text[low:high]``, of the best kind there is; ``high`` where there is none."""
    for pause in _PAUSES:
        end = None
        for match in pause.finditer(text, low, high):
            end = match.end()
        if end is not None:
            return end
    return high


def _stripped(text: str) -> Iterator[str]:
    if text := text.strip():
        yield text
