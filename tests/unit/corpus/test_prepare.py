"""From a corpus to the splits: nothing leaks, and the metrics say what was done."""

from __future__ import annotations

import pytest

from minigpts.corpus.document import Corpus, Document, Question
from minigpts.corpus.leaks import giveaways, near_duplicates
from minigpts.corpus.prepare import Shape, prepare
from minigpts.errors import UserError
from tests.tiny import WORDS

SHAPE = Shape(
    shares={"calibration": 0.2, "validation": 0.2, "test": 0.2},
    max_bytes={"calibration": 3000, "validation": 3000, "test": None},
    max_questions={"validation": 3, "test": 5},
    seed=0,
)


def text(number: int) -> str:
    words = [WORDS[(number * step + step) % 18] for step in range(1, 9)]
    return f"Note {number}: the {' and the '.join(words)} were seen in year {number * 7919 % 9973}."


def corpus(count: int = 200) -> Corpus:
    documents = [Document(text(i), f"g{i // 2}", "s") for i in range(count)]
    questions = [Question(f"q{i}", f"Which? {i}", ("a", "b"), 0, f"g{i // 2}", text(i)) for i in range(count)]
    return Corpus(documents, questions, {"s": {"name": "notes"}})


def test_no_leak_is_left_and_every_document_is_accounted_for():
    whole = corpus()
    prepared = prepare(Corpus([*whole.documents, whole.documents[0]], whole.questions, whole.sources), SHAPE)
    parts, metrics = prepared.documents, prepared.metrics
    held_out = [document.text for name in ("validation", "test") for document in parts[name]]
    evidence = [question.evidence for items in prepared.questions.values() for question in items]
    for name in ("train", "calibration"):
        texts = [document.text for document in parts[name]]
        assert near_duplicates(texts, [*held_out, *evidence]) == (set(), 0)
        assert giveaways(texts, evidence) == set()
        assert metrics["leak_check"][f"{name}_remaining"] == 0
    assert metrics["dropped"]["copies"] == 1
    leaked = sum(value for key, value in metrics["leak_check"].items() if key.endswith("_dropped"))
    assert sum(metrics["documents"].values()) + sum(metrics["dropped"].values()) + leaked == 201
    assert metrics["bytes"]["calibration"] <= 3000
    assert metrics["questions"] == {"validation": 3, "test": 5} and metrics["num_questions"] == 8


def test_a_planted_near_duplicate_leaves_the_training_side():
    whole = corpus()
    test_text = prepare(whole, SHAPE).documents["test"][0].text
    planted = [Document(f"{test_text} Again {i}.", f"copy{i}", "s") for i in range(40)]
    parts = prepare(Corpus([*whole.documents, *planted], whole.questions, whole.sources), SHAPE)
    assert parts.metrics["leak_check"]["train_dropped"] >= 10
    where = {name for name, documents in parts.documents.items() for document in documents if test_text in document.text}
    assert where == {"test"}


def test_question_rows_name_their_split():
    rows = prepare(corpus(), SHAPE).question_rows()
    assert {row["split"] for row in rows} == {"validation", "test"}
    assert all(row["choices"][row["answer"]] == "a" for row in rows)


def test_too_little_text_is_refused_by_the_split():
    with pytest.raises(UserError, match=r"for (validation|test|calibration)"):
        prepare(corpus(12), SHAPE)
