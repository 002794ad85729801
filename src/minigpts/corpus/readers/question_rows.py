"""Rows of questions from anywhere, checked: each has two distinct choices at least, and an answer among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from minigpts.corpus.document import Question
from minigpts.corpus.readers.missing import missing
from minigpts.corpus.readers.text_files import printable
from minigpts.errors import UserError


class Row(NamedTuple):
    """A question as it was found, unchecked."""

    place: str  # behind the file's name: ":3", ": question 3"
    question: Any
    choices: Any
    answer: Any
    context: str = ""  # what the prompt says above the question
    cells: bool = False  # all of it is text, so digits may be an index
    counted: bool = False  # a number as the answer may count from 0 or from 1, as the whole file shows


def from_rows(
    rows: Iterable[tuple[str, Mapping[str, Any]]], mapping: Mapping[str, str | Sequence[str]], dropped: Counter[str]
) -> list[Question]:
    """Questions from rows (where, columns), such as a hub data set's; ``where`` becomes the question's id.

    ``mapping`` names the columns of ``question``, ``choices`` (one that holds a list, or one each) and ``answer``. What was left
    out, and why, is added to ``dropped``. Raises UserError naming the row.
    """
    found = []
    for where, row in rows:
        question, answer = _column(row, mapping["question"], where), _column(row, mapping["answer"], where)
        columns = mapping["choices"]
        asked = Row("", question, filled(_column(row, columns, where), dropped), answer)
        found.append(checked(asked, where, where, dropped))
    return distinct(found, dropped)


def _column(row: Mapping[str, Any], name: str | Sequence[str], where: str) -> Any:
    if not isinstance(name, str):
        return [_column(row, each, where) for each in name]
    if name not in row:
        raise UserError(f"{where}: no column '{name}'; there is {', '.join(map(str, row))}")
    return row[name]


def filled(choices: Any, dropped: Counter[str]) -> Any:
    """The choices without the missing ones at the end, which are counted: a question with four choices where others have five."""
    if not isinstance(choices, list):
        return choices
    count = max((number for number, choice in enumerate(choices, start=1) if not missing(choice)), default=0)
    if count < len(choices):
        dropped["missing choices"] += len(choices) - count
    return choices[:count]


def checked(row: Row, where: str, id_: str, dropped: Counter[str], base: int = 0) -> Question:
    """The row as a question; ``base``: from which a number as the answer counts the choices, where the row leaves it open.

    Raises UserError with ``where`` for a question without text, two distinct choices or a valid answer.
    """
    if not isinstance(row.question, str) or missing(question := printable(row.question, dropped).strip()):
        raise UserError(f"{where}: 'question' must be text, got {row.question!r}")
    found = row.choices if isinstance(row.choices, list) else []
    choices = tuple(printable(choice, dropped).strip() if isinstance(choice, str) else choice for choice in found)
    for number, choice in enumerate(choices, start=1):
        if missing(choice):
            raise UserError(f"{where}: choice {number} of 'choices' is empty")
    if len(choices) < 2 or not all(isinstance(choice, str) for choice in choices):
        raise UserError(f"{where}: 'choices' must be at least two texts, got {row.choices!r}")
    if len(set(choices)) < len(choices):
        raise UserError(f"{where}: 'choices' must differ from one another, got {Counter(choices).most_common(1)[0][0]!r} twice")
    asked = f"{printable(row.context, dropped)}\n{question}".strip()
    return Question(id_, asked, choices, _answer(row, choices, where, base if row.counted else 0), None, question)


def _answer(row: Row, choices: Sequence[str], where: str, base: int) -> int:
    answer, last = row.answer, len(choices) - 1
    if isinstance(answer, str):
        text = printable(answer, Counter()).strip()
        named = [{choice, letter(index), *([str(index + base)] if row.cells else [])} for index, choice in enumerate(choices)]
        found = [index for index, names in enumerate(named) if text in names]
        if len(found) > 1:
            raise UserError(
                f"{where}: 'answer' {text!r} is the place of one choice and the text of another; give a letter or a text"
            )
        index = found[0] if found else None
    else:
        place = index_of(row)
        index = None if place is None else place - base
    if index is None or not 0 <= index <= last:
        choice = f"its letter from A to {letter(last)} or its index from {base} to {last + base}"
        raise UserError(f"{where}: 'answer' must be one of the choices, {choice}, got {answer!r}")
    return index


def index_of(row: Row) -> int | None:
    """The answer where it is a number: pandas makes a column of whole numbers one of floats where a value is missing."""
    answer = row.answer
    if isinstance(answer, str):
        return int(answer) if row.cells and answer.strip().isdecimal() else None
    if isinstance(answer, float) and answer.is_integer():
        return int(answer)
    return answer if isinstance(answer, int) and not isinstance(answer, bool) else None


def letter(index: int) -> str:
    """The letter of a choice."""
    return chr(ord("A") + index)


def distinct(questions: Iterable[Question], dropped: Counter[str]) -> list[Question]:
    """Without the questions an earlier one asks in the same words, with the same choices in any order.

    The choices count: sets share questions like "Which of these is true?".
    """
    first: dict[tuple[str, frozenset[str]], Question] = {}
    for question in questions:
        asked = (" ".join(question.question.split()), frozenset(question.choices))
        if first.setdefault(asked, question) is not question:
            dropped["duplicate questions"] += 1
    return list(first.values())
