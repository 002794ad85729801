"""Paragraphs out of lines on pages."""

from __future__ import annotations

import pytest

from minigpts.corpus.readers import pdf
from tests.unit.corpus.readers import documents

LINES = [
    "The heart is a muscle that pumps blood through the whole body, and it does",
    "so about seventy times a minute, with a rhythm that the sinus node sets of it-",
    "self, faster in children than in adults, and in athletes at rest far more slowly.",
    "A beat begins there.",
]
BEATS = (
    "The heart is a muscle that pumps blood through the whole body, and it does so about seventy times a minute, with a rhythm"
    " that the sinus node sets of itself, faster in children than in adults, and in athletes at rest far more slowly."
    " A beat begins there."
)


def placed(lines, top=500.0, left=50.0, step=12.0):
    return [(left, top - step * number, line) for number, line in enumerate(lines)]


def paragraphs(*pages):
    return pdf.text(documents.pdf(pages)).split("\n\n")


def test_lines_become_paragraphs_and_broken_words_whole():
    following = ["The lungs fill with air.", "", "They empty again."]
    assert paragraphs(placed([*LINES, *following])) == [BEATS, "The lungs fill with air.", "They empty again."]


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(placed(LINES, top=500 - 48 - 6), id="by space"),
        pytest.param([(65, 452, LINES[0]), *placed(LINES[1:], top=440)], id="by indent"),
        pytest.param([(50, 452, f"1. {LINES[0]}"), *placed(LINES[1:], top=440)], id="by number"),
    ],
)
def test_a_paragraph_begins_where_a_reader_sees_one(second):
    assert [text.removeprefix("1. ") for text in paragraphs([*placed(LINES), *second])] == [BEATS, BEATS]


def test_a_paragraph_goes_on_on_the_next_page_and_what_stands_at_the_edges_does_not():
    def page(number, lines):
        head = f"{number} A book" if number % 2 else f"Anatomy of the heart {number}"
        return [(50, 570, head), *placed(lines), (200, 30, f"Page {number} of 12"), (350, 30, "2nd edition")]

    beats = [f"There are {beats} beats a minute." for beats in (60, 90)]
    pages = [page(7, LINES[:2]), page(8, LINES[2:]), page(9, beats[:1]), page(10, beats[1:])]
    assert paragraphs(*pages) == [BEATS, *beats]


def test_a_line_of_the_text_stays_though_another_page_has_it_elsewhere():
    assert paragraphs(placed(["The refrain."]), placed(["The refrain."], top=400)) == ["The refrain.", "The refrain."]


def test_columns_are_read_one_after_the_other():
    narrow = [
        "The heart pumps blood to the",
        "lungs, where it takes up the",
        "air that is breathed in, and",
        "from there to the body, and",
    ]
    right = ["then back again to where it", "came from."]
    assert paragraphs([*placed(narrow), *placed(right, left=220)]) == [" ".join([*narrow, *right])]


def test_a_hyphen_that_belongs_to_a_word_stays():
    assert pdf._joined("SARS-", "Cov is a virus") == "SARS-Cov is a virus"
    assert pdf._joined("a value of 3 -", "5 units") == "a value of 3 - 5 units"
    assert pdf._joined("心脏", "跳动") == "心脏跳动"
