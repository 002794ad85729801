"""Long text is cut at pauses, and nothing of it is lost."""

from __future__ import annotations

import random

import pytest

from minigpts.corpus.document import normalized
from minigpts.corpus.passages import LONGEST, passages

SENTENCE = "The heart beats and the lungs fill with air"


def cut(text: str) -> list[str]:
    return list(passages([text]))


def words(parts: list[str]) -> str:
    return normalized(" ".join(parts))


def prose(length: int) -> str:
    """Sentences of 3 to 40 words, in paragraphs, with some blank lines of spaces between them."""
    chance = random.Random(0)
    text = ""
    while len(text) < length:
        text += " ".join(f"w{chance.randrange(1000)}" for _ in range(chance.randint(3, 40)))
        text += chance.choice([". ", ".\n", "?\n\n", ".\n \t\n"])
    return text


def test_a_short_text_is_one_passage_and_a_blank_one_is_none():
    assert cut(f"\n {SENTENCE}\n\n{SENTENCE} ") == [f"{SENTENCE}\n\n{SENTENCE}"]
    assert cut(" \n\t ") == cut("") == []
    assert cut("x" * LONGEST) == ["x" * LONGEST]


def test_no_word_is_lost_and_every_length_is_in_bounds():
    text = prose(50 * LONGEST)
    parts = cut(text)
    assert words(parts) == normalized(text)
    assert all(LONGEST // 2 - 4 <= len(part) <= LONGEST for part in parts[:-1])
    assert len(parts[-1]) >= LONGEST // 4 - 4


@pytest.mark.parametrize("length", [LONGEST + 1, LONGEST + LONGEST // 4, 2 * LONGEST, 2 * LONGEST + 1])
def test_the_last_passage_is_never_a_few_words(length):
    text = ("word " * length)[:length]
    parts = cut(text)
    assert words(parts) == normalized(text)
    assert min(map(len, parts)) >= LONGEST // 4 - 5


@pytest.mark.parametrize("size", [1, 7, 1000, LONGEST, 10**6])
def test_passages_are_the_same_wherever_the_blocks_end(size):
    text = prose(5 * LONGEST + 17)
    assert list(passages(text[start : start + size] for start in range(0, len(text), size))) == cut(text)


@pytest.mark.parametrize(
    ("pause", "end"),
    [("\n\n", SENTENCE), ("\n \t\n", SENTENCE), ("\n", SENTENCE), (". ", f"{SENTENCE}."), ('?" ', f'{SENTENCE}?"'), (" ", "")],
)
def test_a_passage_ends_at_the_best_pause_its_second_half_has(pause, end):
    text = f"{SENTENCE}{pause}" * (2 * LONGEST // len(SENTENCE))
    first = cut(text)[0]
    assert first.endswith(end) and len(first) >= LONGEST // 2
    assert text[len(first) :].startswith(pause.lstrip('.?"'))


def test_a_blank_line_goes_before_a_later_line_and_a_line_before_a_later_sentence():
    half = ("word " * LONGEST)[: LONGEST // 2]
    for better, worse in (("\n\n", "\n"), ("\n", ". "), (". ", " ")):
        text = f"{half}first{better}second{worse}third {half}{half}"
        assert cut(text)[0].rstrip(".").endswith("first")


def test_a_title_is_no_passage_of_its_own():
    first = cut("A title\n\n" + "word " * LONGEST)[0]
    assert first.startswith("A title\n\nword") and len(first) >= LONGEST // 2


def test_text_without_spaces_is_cut_at_its_sentences_or_anywhere():
    chinese = "心臟病患者需要定期檢查。" * (LONGEST // 6)
    assert all(part.endswith("。") for part in cut(chinese)) and "".join(cut(chinese)) == chinese
    assert "".join(cut("x" * 3 * LONGEST)) == "x" * 3 * LONGEST


def test_a_long_stream_is_never_held_whole():
    """No block is taken before the text in front of it has been given out."""
    taken = given = 0

    def blocks():
        nonlocal taken
        for _ in range(300):
            taken += 10_000
            yield "word " * 2000

    for passage in passages(blocks()):
        given += len(passage) + 1  # and the space at which it was cut
        assert taken - given <= 10_000 + 2 * LONGEST
    assert given == taken
