"""Copies and near duplicates: those that were planted, and nothing else."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from minigpts.corpus.duplicates import Duplicates
from minigpts.corpus.words import words_of


def prose(number: int, count: int = 100) -> list[str]:
    """Words of chance, as in prose: some of them often."""
    chance = random.Random(number)
    return [f"w{int(chance.paretovariate(0.7)) % 5000}" for _ in range(count)]


def edited(words: list[str], count: int, seed: int) -> list[str]:
    """The same with some words exchanged."""
    chance, changed = random.Random(seed), list(words)
    for place in chance.sample(range(len(words)), count):
        changed[place] = f"new{chance.random()}"
    return changed


def near(texts: list[str], folder: Path, batch: int = 50) -> list[int]:
    """Numbers of the near duplicates, the texts taken ``batch`` at a time."""
    duplicates = Duplicates(folder)
    for start in range(0, len(texts), batch):
        duplicates.add(words_of(texts[start : start + batch]))
    among = np.flatnonzero(~duplicates.copies())
    return among[duplicates.near_duplicates(among)].tolist()


@pytest.mark.parametrize("edits", [1, 2, 3])
def test_a_few_changed_words_in_a_hundred_are_found_wherever_they_are(edits, tmp_path):
    originals = [prose(number) for number in range(300)]
    copies = [edited(words, edits, number) for number, words in enumerate(originals)]
    texts = [" ".join(words) for words in originals + copies]
    assert near(texts, tmp_path) == list(range(300, 600))
    assert near(texts, tmp_path, batch=600) == near(texts, tmp_path)


def test_what_is_not_alike_stays(tmp_path):
    texts = [" ".join(prose(number)) for number in range(500)]
    texts += [" ".join(edited(prose(number), 25, number)) for number in range(100)]
    texts += ["", "heart", "heart and lung", "a heart"]
    assert near(texts, tmp_path) == []


def test_the_first_of_many_stays(tmp_path):
    family = [" ".join(edited(prose(0), 2, seed)) for seed in range(400)]
    assert near([" ".join(prose(1)), *family], tmp_path) == list(range(2, 401))


def test_copies_differ_by_case_and_punctuation_at_most(tmp_path):
    duplicates = Duplicates(tmp_path)
    duplicates.add(words_of(["The heart.", "A lung.", "the  HEART"]))
    duplicates.add(words_of(["heart the", "A lung"]))
    assert duplicates.copies().tolist() == [False, False, True, False, True]
