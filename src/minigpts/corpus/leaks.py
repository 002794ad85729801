"""Finds training text that gives away what the evaluation asks for.

A leak is a run of ``RUN`` words that a document of the training side shares with a held-out text (a document, or the evidence of
a question): the field's usual measure of contamination (GPT-3, arXiv 2005.14165). A shorter text of at least ``SHORTEST_RUN``
words is one run. As there, a run in more than ``COMMON`` documents of the training side is a phrase of the domain, a heading or a
disclaimer. Such runs are kept and make up the leakage that remains. Documents with any other shared run are removed, and so are
held-out texts most of whose runs are common: they test what was learnt by heart.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from minigpts.corpus.words import Hashes, Words, words_of

RUN = 13  # words
SHORTEST_RUN = 4  # words; "joint pain" gives nothing away
COMMON = 10  # documents
MOST = 0.5  # of a held-out text's runs

_NONE, _NO_HASH = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint64)

Found = tuple[NDArray[np.int64], NDArray[np.int64]]  # (pairs,) each: which text, and which of the runs that are looked for


class HeldOut:
    """The runs of words in the held-out texts, and the documents of the training side that have them."""

    def __init__(self, texts: Mapping[str, Sequence[str]]) -> None:
        """``texts`` by kind: the held-out documents of each split, and the evidence of its questions."""
        words = words_of([text for kind in texts.values() for text in kind])
        counts = np.diff(words.offsets)
        positions, hashes, heads = [_NONE], [_NO_HASH], [_NO_HASH]
        self._lengths = [int(length) for length in np.unique(np.minimum(counts, RUN)) if length >= SHORTEST_RUN]
        for length in self._lengths:
            starts = np.flatnonzero(words.inside(np.arange(len(words.hashes)), length))
            starts = starts[np.minimum(counts[words.text_of(starts)], RUN) == length]
            positions.append(starts)
            hashes.append(words.runs_at(starts, length))
            heads += [words.runs_at(starts, SHORTEST_RUN)] if length < RUN else []
        self._set, self._heads = _Set(np.concatenate(hashes)), _Set(np.concatenate(heads))
        self._runs = np.searchsorted(self._set.hashes, np.concatenate(hashes))  # which runs the texts have,
        self._owners = words.text_of(np.concatenate(positions))  # and which text has each
        self._firsts = dict(zip(texts, np.cumsum([0, *map(len, texts.values())]).tolist(), strict=False))  # text of each kind
        self._sizes = {kind: len(items) for kind, items in texts.items()}
        self._seen = np.zeros(len(self._set.hashes), dtype=np.int64)  # documents of the training side with the run
        self._hits = [(_NONE, _NONE)]

    def find(self, words: Words) -> Found:
        """The runs in some texts as pairs of text and run, each pair once."""
        texts, runs = [_NONE], [_NONE]
        heads = self._heads.find(words.runs(SHORTEST_RUN))[0]
        for length in self._lengths:
            if length == RUN:
                positions, found = self._set.find(words.runs(RUN))
            else:
                positions = heads[heads + length <= len(words.hashes)]
                places, found = self._set.find(words.runs_at(positions, length))
                positions = positions[places]
            inside = words.inside(positions, length)
            texts.append(words.text_of(positions[inside]))
            runs.append(found[inside])
        pairs = np.unique(np.array([np.concatenate(texts), np.concatenate(runs)]), axis=1)
        return pairs[0], pairs[1]

    def look_through(self, words: Words, numbers: NDArray[np.intp]) -> None:
        """Record the runs in some documents of the training side; ``numbers``, (texts,), are the documents' numbers."""
        texts, runs = self.find(words)
        rare = self._seen[runs] <= COMMON
        self._hits.append((numbers[texts[rare]], runs[rare]))
        self._seen += np.bincount(runs, minlength=len(self._seen))

    def leaks(self, found: Found | None = None, kinds: Collection[str] | None = None) -> Found:
        """The leaks among the documents looked through, or among ``found``: documents' numbers and their runs that are not common.

        ``kinds`` restricts them to runs of these kinds of texts.
        """
        numbers, runs = found or tuple(map(np.concatenate, zip(*self._hits, strict=True)))
        leaking = self._seen[runs] <= COMMON
        if kinds is not None:
            leaking &= np.logical_or.reduce([self._of(kind)[runs] for kind in kinds])
        return numbers[leaking], runs[leaking]

    def count(self, leaks: Found) -> dict[str, int]:
        """The number of documents with a run of each kind of texts."""
        return {kind: len(np.unique(leaks[0][self._of(kind)[leaks[1]]])) for kind in self._sizes}

    def by_heart(self) -> dict[str, NDArray[np.bool_]]:
        """For each kind, which texts have more than ``MOST`` of their runs in common with many documents, (texts,)."""
        common, all_ = self._common()
        return {kind: common[texts] > MOST * all_[texts] for kind, texts in self._texts().items()}

    def leakage(self, kept: Mapping[str, NDArray[np.bool_]]) -> dict[str, float]:
        """For each kind, the share of the runs in the texts ``kept`` that the training side still has."""
        common, all_ = self._common()
        return {
            kind: float(common[texts][kept[kind]].sum() / max(all_[texts][kept[kind]].sum(), 1))
            for kind, texts in self._texts().items()
        }

    def _common(self) -> Found:
        """The number of common runs and of all runs in each text, (texts,) each."""
        total = sum(self._sizes.values())
        common = self._seen[self._runs] > COMMON
        return np.bincount(self._owners[common], minlength=total), np.bincount(self._owners, minlength=total)

    def _texts(self) -> dict[str, slice]:
        return {kind: slice(first, first + self._sizes[kind]) for kind, first in self._firsts.items()}

    def _of(self, kind: str) -> NDArray[np.bool_]:
        """Whether a text of this kind has each run, (runs,)."""
        texts = self._texts()[kind]
        has = np.zeros(len(self._seen), dtype=np.bool_)
        has[self._runs[(self._owners >= texts.start) & (self._owners < texts.stop)]] = True
        return has


class _Set:
    """A set of hashes for fast look-up; a table of their first bits rejects nearly all others."""

    def __init__(self, hashes: Hashes) -> None:
        self.hashes = np.unique(hashes)
        bits = min(max(16, len(self.hashes).bit_length() + 4), 27)
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << bits, dtype=np.bool_)
        self._table[self.hashes >> self._shift] = True

    def find(self, hashes: Hashes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions in ``hashes`` of those in the set, and their places in it."""
        positions = np.flatnonzero(self._table[hashes >> self._shift])
        candidates = hashes[positions]
        places = np.searchsorted(self.hashes, candidates)
        known = places < len(self.hashes)
        known[known] = self.hashes[places[known]] == candidates[known]
        return positions[known], places[known]
