"""Hashes the words of many texts, to find copies, near duplicates and shared runs of words.

A word is what :func:`minigpts.corpus.document.normalized` makes one. The hash of a word, and of a run of words, is a polynomial
in a fixed odd number modulo 2^64, so it depends on no seed, process or machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minigpts.corpus.document import folded

Hashes = NDArray[np.uint64]

_BLOCK = 1 << 17  # bytes hashed at once, so that what is in work stays in the processor's cache
_BASE = 0x9E3779B97F4A7C15
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_SHIFT = np.uint64(33)


def _powers(base: int) -> Hashes:
    factors = np.full(_BLOCK, base, dtype=np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)


def _folding() -> NDArray[np.uint8]:
    """Of each byte: itself, lower-case, where it belongs to a word, else 0. All beyond ASCII were folded before."""
    table = np.zeros(256, np.uint8)
    for byte in range(256):
        if byte >= 128 or chr(byte).isalnum() or byte == ord("_"):
            table[byte] = ord(chr(byte).lower()) if byte < 128 else byte
    return table


_POWERS = _powers(_BASE)
_INVERSE_POWERS = _powers(pow(_BASE, -1, 1 << 64))
_FOLDING = _folding()


@dataclass(frozen=True)
class Words:
    """The words of some texts, one text after the other."""

    hashes: Hashes  # (words,)
    offsets: NDArray[np.int64]  # (texts + 1,): text i has the words from offsets[i] to offsets[i + 1]

    def runs(self, length: int) -> Hashes:
        """The hash of each run of ``length`` words, (words - length + 1,); some begin in one text and end in the next."""
        return _runs(self.hashes, length)

    def runs_at(self, positions: NDArray[np.int64], length: int) -> Hashes:
        """The same at some positions; no run may reach beyond the last word."""
        values = self.hashes[positions].copy()
        for step in range(1, length):
            values *= np.uint64(_BASE)
            values += self.hashes[positions + step]
        return _mixed(values)

    def shingles(self, length: int) -> Hashes:
        """One run of ``length`` words for every word, (words,), none of them across texts: past a text's end come empty words."""
        places = np.arange(len(self.hashes)) + self._owners() * (length - 1)
        padded = np.zeros(len(self.hashes) + len(self.offsets) * (length - 1), dtype=np.uint64)
        padded[places] = self.hashes
        return _runs(padded, length)[places]

    def texts(self) -> Hashes:
        """The hash of all of a text's words in their order, (texts,)."""
        places = np.arange(len(self.hashes)) - self.offsets[self._owners()]
        sums = np.zeros(len(self.hashes) + 1, dtype=np.uint64)
        np.cumsum(_mixed(self.hashes + places.astype(np.uint64) * np.uint64(_BASE)), out=sums[1:])
        return sums[self.offsets[1:]] - sums[self.offsets[:-1]]

    def _owners(self) -> NDArray[np.int64]:
        """Which text each word belongs to, (words,)."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def text_of(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which text the word at each position belongs to."""
        return np.searchsorted(self.offsets, positions, side="right") - 1

    def inside(self, positions: NDArray[np.int64], length: int) -> NDArray[np.bool_]:
        """Whether the run of ``length`` words at each position ends in the text it begins in."""
        return positions + length <= self.offsets[self.text_of(positions) + 1]


def words_of(texts: Sequence[str]) -> Words:
    """Find and hash the words of texts."""
    encoded = [folded(text).encode() for text in texts]
    data = _FOLDING[np.frombuffer(b"\n".join(encoded) + b"\n", dtype=np.uint8)]
    starts, hashes = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
    begin = 0
    while begin < len(data):
        end = min(begin + _BLOCK, len(data))
        if end < len(data):  # between two words, unless a single word is longer than a block
            gaps = np.flatnonzero(data[begin:end] == 0)
            end = begin + int(gaps[-1]) + 1 if len(gaps) else end
        block = data[begin:end]
        inside = block != 0
        inside[1:] &= block[:-1] == 0
        first = np.flatnonzero(inside)
        if len(first):
            values = np.add.reduceat(block * _POWERS[: len(block)], first) * _INVERSE_POWERS[first]
            starts.append(first + begin)
            hashes.append(_mixed(values))
        begin = end
    ends = np.cumsum([0, *(len(text) + 1 for text in encoded)])
    return Words(np.concatenate(hashes), np.searchsorted(np.concatenate(starts), ends))


def _runs(hashes: Hashes, length: int) -> Hashes:
    count = max(len(hashes) - length + 1, 0)
    values = hashes[:count].copy()
    for step in range(1, length):
        values *= np.uint64(_BASE)
        values += hashes[step : step + count]
    return _mixed(values)


def _mixed(values: Hashes) -> Hashes:
    """Spread every bit of a polynomial over the number: its low bits depend on the low bits of its terms alone."""
    values = (values ^ (values >> _SHIFT)) * _MIX
    return values ^ (values >> _SHIFT)
