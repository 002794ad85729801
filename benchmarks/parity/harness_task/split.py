"""Which of the prepared questions count as test questions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset


def test_questions(questions: Dataset) -> Dataset:
    """Leave the validation questions out: settings were chosen by them."""
    return questions.filter(lambda question: question["split"] == "test")
