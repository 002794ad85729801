"""From a corpus to four splits and the questions: copies out, split by group, cap, check for leaks, count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minigpts.corpus import leaks, splits
from minigpts.corpus.document import Corpus, Document, Question
from minigpts.corpus.questions import assign, balanced
from minigpts.errors import UserError

MINIMUM_BYTES = 500  # of text in each split: less than that measures nothing


@dataclass(frozen=True)
class Shape:
    """What the splits should look like."""

    shares: Mapping[str, float]  # of calibration, validation and test in the documents
    max_bytes: Mapping[str, int | None]  # caps on the same, UTF-8; None: no cap
    max_questions: Mapping[str, int]  # of validation and test
    seed: int


@dataclass(frozen=True)
class Prepared:
    """What the stage writes."""

    documents: dict[str, list[Document]]  # by split
    questions: dict[str, list[Question]]  # by split
    metrics: dict[str, Any]

    def question_rows(self) -> list[dict[str, Any]]:
        """The questions as the rows of ``mcq.jsonl``."""
        return [
            {"id": item.id, "question": item.question, "choices": list(item.choices), "answer": item.answer, "split": split}
            for split, items in self.questions.items()
            for item in items
        ]


def prepare(corpus: Corpus, shape: Shape) -> Prepared:
    """Split the corpus. Raises UserError when a split ends up with too little text.

    Caps come before the leak check: a document that is cut from the test can't leak, so nothing need go for its sake.
    """
    distinct = splits.without_copies(corpus.documents)
    whole = splits.split(distinct, shape.shares, shape.seed)
    groups = {name: {document.group for document in documents} for name, documents in whole.items()}
    assigned = assign(corpus.questions, groups, shape.max_questions, shape.seed)
    questions = {name: balanced(items) for name, items in assigned.items()}
    kept = {name: splits.capped(splits.spread(whole[name], shape.seed), cap) for name, cap in shape.max_bytes.items()}
    kept["train"] = splits.shuffled(whole["train"], shape.seed)
    over_cap = {f"{name}_over_cap": len(whole[name]) - len(kept[name]) for name in shape.max_bytes}
    checked, found = without_leaks(kept, questions)
    _require_text(checked)
    dropped = {"copies": len(corpus.documents) - len(distinct), **over_cap}
    metrics = {**_counts(checked, questions), "leak_check": found, "dropped": dropped, "sources": corpus.sources}
    return Prepared(checked, questions, metrics)


def without_leaks(
    documents: Mapping[str, Sequence[Document]], questions: Mapping[str, Sequence[Question]]
) -> tuple[dict[str, list[Document]], dict[str, int]]:
    """Drop from each split what is too close to a later one (train and calibration, then validation, then test)."""
    checked = {name: list(items) for name, items in documents.items()}
    found: dict[str, int] = {}
    for name, later in (("validation", ["test"]), ("calibration", ["validation", "test"]), ("train", ["validation", "test"])):
        held_out = [document.text for other in later for document in checked[other]]
        evidence = [question.evidence for other in later for question in questions.get(other, ())]
        near, pairs = _leaking(checked[name], held_out, evidence)
        checked[name] = [document for index, document in enumerate(checked[name]) if index not in near]
        found[f"{name}_pairs"], found[f"{name}_dropped"] = pairs, len(near)
        found[f"{name}_remaining"] = _leaking(checked[name], held_out, evidence)[1]
    return checked, found


def _leaking(documents: Sequence[Document], held_out: Sequence[str], evidence: Sequence[str]) -> tuple[set[int], int]:
    """Indices of the documents that leak, and the number of pairs (document, what it gives away)."""
    texts = [document.text for document in documents]
    near, pairs = leaks.near_duplicates(texts, [*held_out, *evidence])
    given = leaks.giveaways(texts, evidence)
    return near | given, pairs + len(given - near)


def _require_text(documents: Mapping[str, Sequence[Document]]) -> None:
    for name, items in documents.items():
        size = splits.text_bytes(items)
        if size < MINIMUM_BYTES:
            raise UserError(
                f"dataset: {len(items)} documents with {size} bytes of text came out for {name}, at least {MINIMUM_BYTES} bytes are"
                " needed; give more text, or change the shares and the caps in bytes"
            )


def _counts(documents: Mapping[str, Sequence[Document]], questions: Mapping[str, Sequence[Question]]) -> dict[str, Any]:
    sources = sorted({document.source for items in documents.values() for document in items})
    return {
        "documents": {name: len(items) for name, items in documents.items()},
        "bytes": {name: splits.text_bytes(items) for name, items in documents.items()},
        "bytes_by_source": {
            source: {
                name: splits.text_bytes([item for item in items if item.source == source]) for name, items in documents.items()
            }
            for source in sources
        },
        "questions": {name: len(items) for name, items in questions.items()},
        "num_questions": sum(len(items) for items in questions.values()),
    }
