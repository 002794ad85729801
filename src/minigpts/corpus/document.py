"""What every source of text gives and the splits are made of: documents, and multiple-choice questions about them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Document:
    """One text, and the group of texts it may not be separated from."""

    text: str
    group: str  # documents of one group land in one split: sibling terms, a block of codes, copies of one text
    source: str  # where it comes from, for the metrics


@dataclass(frozen=True)
class Question:
    """One multiple-choice question, written so that ``Question: {question}\\nAnswer: {choice}`` reads well."""

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int  # 0-based index into the choices
    group: str | None  # it may only test the split its group landed in; None: any
    evidence: str  # what would give the answer away, so it may not occur in the training text


@dataclass(frozen=True)
class Corpus:
    """All of a domain before the split."""

    documents: list[Document]
    questions: list[Question]
    sources: dict[str, dict[str, str]] = field(default_factory=dict)  # name -> version, licence, acknowledgement


def normalized(text: str) -> str:
    """Lower-case words with single spaces between them: equal for texts that differ by case, punctuation or layout only."""
    return " ".join(re.findall(r"\w+", text.casefold()))
