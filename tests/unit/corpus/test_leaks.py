"""What counts as a leak and what doesn't."""

from __future__ import annotations

import numpy as np

from minigpts.corpus.leaks import COMMON, HeldOut
from minigpts.corpus.words import words_of

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
OWN = "a mass in the liver that is filled with fluid and has a thin wall without any septa inside of it"


def looked_through(held_out: HeldOut, texts: list[str], batch: int = 3) -> list[int]:
    """Numbers of the texts that leak."""
    for start in range(0, len(texts), batch):
        part = texts[start : start + batch]
        held_out.look_through(words_of(part), np.arange(start, start + len(part)))
    return sorted(set(held_out.leaks()[0].tolist()))


def test_thirteen_words_or_a_whole_short_text():
    texts = [
        "So: TWO three, four five six seven eight nine ten eleven twelve thirteen fourteen!",
        "two three four five six seven eight nine ten eleven twelve thirteen, then nothing",
        "It is a reduced length of the arm.",
        "a joint pain",
        "Reduced length of",
        "the arm.",
    ]
    held_out = HeldOut({"test": [LONG], "test_questions": ["Reduced length of the arm.", "Joint pain."]})
    assert looked_through(held_out, texts) == [0, 2]
    assert held_out.count(held_out.leaks()) == {"test": 1, "test_questions": 1}
    assert held_out.leaks(kinds=["test"])[0].tolist() == [0]
    assert looked_through(HeldOut({"test": []}), texts) == []


def test_a_run_does_not_go_from_one_text_to_the_next():
    half = LONG.split()
    assert looked_through(HeldOut({"test": [LONG]}), [" ".join(half[:7]), " ".join(half[7:])], batch=2) == []


def test_common_phrases_stay_and_are_what_leakage_counts():
    phrase = "this text is no advice and cannot stand in place of the word of a doctor"
    held_out = HeldOut({"test": [f"{OWN} {phrase}", phrase, OWN]})
    texts = [f"{phrase} and number {i}" for i in range(COMMON + 1)] + [f"about {OWN}"]
    assert looked_through(held_out, texts) == [COMMON + 1]
    by_heart = held_out.by_heart()["test"]
    assert by_heart.tolist() == [False, True, False]
    runs = len(phrase.split()) - 12
    total = len(f"{OWN} {phrase}".split()) - 12 + len(OWN.split()) - 12
    assert held_out.leakage({"test": ~by_heart}) == {"test": runs / total}
    seldom = HeldOut({"test": [phrase]})
    assert looked_through(seldom, texts[:COMMON]) == list(range(COMMON))
    assert seldom.leakage({"test": np.array([True])}) == {"test": 0.0}


def test_what_leaks_does_not_depend_on_the_batches():
    held_out = [f"{OWN} {i} {LONG}" for i in range(5)]
    texts = [f"{i} {LONG}" if i % 7 == 0 else f"{i} {OWN} {i}" if i % 7 == 1 else f"nothing {i}" for i in range(40)]
    found = [looked_through(HeldOut({"test": held_out}), texts, batch) for batch in (1, 7, 40)]
    assert found[0] == found[1] == found[2] != []
