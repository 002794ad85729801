"""Words as numbers: the same words that ``normalized`` finds, and runs that stay inside their text."""

from __future__ import annotations

import numpy as np
import pytest

from minigpts.corpus import words
from minigpts.corpus.document import normalized
from minigpts.corpus.words import words_of

TEXTS = [
    "The heart, the HEART: it's “beating”!",
    "",
    "…!?",
    "Straße naïve ﬁn x_1 3.5 — ärzte\u00a0und",
    "幾天前我在站看到了他。I saw him ひらがな.",
    "a",
    "the heart the heart it s beating",
]


def test_a_word_has_one_number_and_that_is_its_own():
    found = words_of(TEXTS)
    names = [normalized(text).split() for text in TEXTS]
    assert np.diff(found.offsets).tolist() == [len(items) for items in names]
    numbers: dict[str, int] = {}
    for name, number in zip((name for items in names for name in items), found.hashes.tolist(), strict=True):
        assert numbers.setdefault(name, number) == number
    assert len(set(numbers.values())) == len(numbers)


def test_words_do_not_depend_on_where_blocks_end(monkeypatch: pytest.MonkeyPatch):
    whole = words_of(TEXTS)
    monkeypatch.setattr(words, "_BLOCK", 24)
    cut = words_of(TEXTS)
    assert np.array_equal(cut.hashes, whole.hashes) and np.array_equal(cut.offsets, whole.offsets)


def test_texts_are_equal_exactly_when_their_words_are():
    hashes = words_of([*TEXTS, "heart the the heart it s beating"]).texts()
    assert hashes[0] == hashes[6] and hashes[1] == hashes[2]
    assert len(set(hashes.tolist())) == len(TEXTS) - 1
    assert words_of(TEXTS[:1]).texts()[0] == hashes[0]


def test_runs_and_shingles_know_their_text():
    found = words_of(["one two three", "two three four", "three"])
    runs = found.runs(2)
    assert runs[1] == runs[3] and len(runs) == 6
    assert np.array_equal(found.runs_at(np.array([1, 3]), 2), runs[[1, 3]])
    assert found.inside(np.arange(6), 2).tolist() == [True, True, False, True, True, False]
    shingles = found.shingles(2)
    assert len(shingles) == 7 and shingles[0] == runs[0]
    assert shingles[5] != runs[5] and shingles[6] == words_of(["three"]).shingles(2)[0] == shingles[2]
    assert len(words_of(["two"]).runs(13)) == 0
