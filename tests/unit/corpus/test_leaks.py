"""What counts as a leak and what doesn't."""

from __future__ import annotations

from minigpts.corpus.leaks import giveaways, near_duplicates

HELD_OUT = [
    "Calcification of the iliac artery: deposits of calcium and phosphate in the medial layer of the wall of the iliac artery.",
    "A mass in the liver that is filled with fluid and has a thin wall without septa.",
]


def test_near_duplicates_are_found_and_the_rest_left():
    texts = [
        "Calcification of the femoral artery: deposits of calcium and phosphate in the medial layer of the wall of the artery.",
        "An artery of the leg is wide.",
        HELD_OUT[1].upper(),
    ]
    found, pairs = near_duplicates(texts, HELD_OUT)
    assert (found, pairs) == ({0, 2}, 2)


def test_whether_a_text_leaks_does_not_depend_on_the_others():
    texts = [f"text {i} about the iliac artery and its wall of calcium and phosphate deposits" for i in range(5)] + HELD_OUT
    found, _ = near_duplicates(texts, HELD_OUT)
    assert {5, 6} <= found
    alone = {i for i, text in enumerate(texts) if near_duplicates([text], HELD_OUT)[0]}
    assert alone == found


def test_nothing_to_compare():
    assert near_duplicates([], HELD_OUT) == (set(), 0)
    assert near_duplicates(HELD_OUT, []) == (set(), 0)


def test_giveaways_share_thirteen_words_or_a_whole_short_evidence():
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    texts = [
        "So: TWO three, four five six seven eight nine ten eleven twelve thirteen fourteen!",
        "two three four five six seven eight nine ten eleven twelve thirteen, then nothing",
        "It is a reduced length of the arm.",
        "a joint pain",
    ]
    assert giveaways(texts, [long, "Reduced length of the arm.", "Joint pain."]) == {0, 2}
    assert giveaways(texts, []) == set()
