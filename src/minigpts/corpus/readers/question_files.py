"""The user's own multiple-choice questions from local files (all also as .gz), and rows of questions from anywhere else.

* ``.jsonl``: ``{"question": …, "choices": […], "answer": …}``, one a line.
* ``.csv``: MMLU's layout, without a header (question, choices, the answer's letter), or with one: ``question``, ``answer`` and a
  column for each choice, named ``A``, ``B``, … or ``choice…`` or ``option…``.
* ``.json``: the layout of the Mini-GPTs paper's own sets (github.com/tval2/contextual-pruning, ``question_datasets``):
  ``{"context": …, "questions": {question: {"choices": […], "answer": …}}}``. Its context line is put above each question.

An answer is a 0-based index, a letter or the right choice's text. Questions may differ in their number of choices.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from minigpts.corpus.document import Question
from minigpts.corpus.readers import lines
from minigpts.corpus.readers.text_files import printable
from minigpts.errors import UserError

_CHOICE_COLUMN = re.compile(r"[A-Z]|(choice|option).*", re.IGNORECASE)


class _Row(NamedTuple):
    """A question as it was found, unchecked."""

    place: str  # behind the file's name: ":3", ": question 3"
    question: Any
    choices: Any
    answer: Any
    context: str = ""  # what the prompt says above the question
    cells: bool = False  # all of it is text, so digits may be an index


def read_questions(path: Path, dropped: Counter[str]) -> list[Question]:
    """The questions of a file; what was left out, and why, is added to ``dropped``.

    Raises UserError naming file and row for a question without two distinct choices or a valid answer.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; dataset.questions must name a file of questions, or be null")
    reader = _READERS.get(Path(path.name.removesuffix(".gz")).suffix.lower())
    if reader is None:
        raise UserError(f"{path}: not a kind of file questions are read from; use {', '.join(sorted(_READERS))}")
    found = [_question(row, f"{path}{row.place}", f"{path.name}{row.place}", dropped) for row in reader(path, dropped)]
    if not found:
        raise UserError(f"{path}: holds no question; dataset.questions must name a file with some, or be null")
    return _distinct(found, dropped)


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
        choices = _column(row, columns, where)
        asked = _Row("", question, choices if isinstance(columns, str) else _filled(choices), answer)
        found.append(_question(asked, where, where, dropped))
    return _distinct(found, dropped)


def _column(row: Mapping[str, Any], name: str | Sequence[str], where: str) -> Any:
    if not isinstance(name, str):
        return [_column(row, each, where) for each in name]
    if name not in row:
        raise UserError(f"{where}: no column '{name}'; there is {', '.join(map(str, row))}")
    return row[name]


def _filled(cells: Sequence[str | None]) -> list[str | None]:
    """The cells without the empty ones at the end: a question with four choices where others have five."""
    count = max((number for number, cell in enumerate(cells, start=1) if cell is not None and cell != ""), default=0)
    return list(cells[:count])


def _question(row: _Row, where: str, id_: str, dropped: Counter[str]) -> Question:
    if not isinstance(row.question, str) or not (question := printable(row.question, dropped).strip()):
        raise UserError(f"{where}: 'question' must be text, got {row.question!r}")
    if not isinstance(row.choices, list) or len(row.choices) < 2 or not all(isinstance(choice, str) for choice in row.choices):
        raise UserError(f"{where}: 'choices' must be at least two texts, got {row.choices!r}")
    choices = tuple(printable(choice, dropped).strip() for choice in row.choices)
    if "" in choices:
        raise UserError(f"{where}: choice {choices.index('') + 1} of 'choices' is empty")
    if len(set(choices)) < len(choices):
        raise UserError(f"{where}: 'choices' must differ from one another, got {Counter(choices).most_common(1)[0][0]!r} twice")
    asked = f"{printable(row.context, dropped)}\n{question}".strip()
    return Question(id_, asked, choices, _answer(row, choices, where), None, question)


def _answer(row: _Row, choices: Sequence[str], where: str) -> int:
    answer, last = row.answer, len(choices) - 1
    if isinstance(answer, str):
        text = printable(answer, Counter()).strip()
        named = [{choice, _letter(index), *([str(index)] if row.cells else [])} for index, choice in enumerate(choices)]
        found = [index for index, names in enumerate(named) if text in names]
        if len(found) > 1:
            raise UserError(
                f"{where}: 'answer' {text!r} is the place of one choice and the text of another; give a letter or a text"
            )
        answer = found[0] if found else answer
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer <= last:
        place = f"its letter from A to {_letter(last)} or its index from 0 to {last}"
        raise UserError(f"{where}: 'answer' must be one of the choices, {place}, got {answer!r}")
    return answer


def _letter(index: int) -> str:
    return chr(ord("A") + index)


def _distinct(questions: Iterable[Question], dropped: Counter[str]) -> list[Question]:
    """Without the questions an earlier one asks in the same words, with the same choices in any order.

    The choices count: sets share questions like "Which of these is true?".
    """
    first: dict[tuple[str, frozenset[str]], Question] = {}
    for question in questions:
        asked = (" ".join(question.question.split()), frozenset(question.choices))
        if first.setdefault(asked, question) is not question:
            dropped["duplicate questions"] += 1
    return list(first.values())


def _read_jsonl(path: Path, dropped: Counter[str]) -> Iterator[_Row]:
    for line, row in lines.json_rows(path):
        yield _Row(f":{line}", row.get("question"), row.get("choices"), row.get("answer"))


def _read_csv(path: Path, dropped: Counter[str]) -> Iterator[_Row]:
    reader = csv.reader((text for _, text in lines.numbered(path)), strict=True)
    names: list[str] = []
    line = 1  # where a row begins; a text in quotes may take several
    try:
        for cells in reader:
            place, line = f":{line}", reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not names:
                header = [cell.strip().lower() for cell in cells]
                mmlu = not {"question", "answer"} <= set(header)
                names = ["question", *("choice" for _ in cells[2:]), "answer"] if mmlu else header
                columns = [column for column, name in enumerate(names) if _CHOICE_COLUMN.fullmatch(name)]
                if len(columns) < 2:
                    raise UserError(
                        f"{path}{place}: needs a header with question, answer and a column for each choice (A, B, …), or MMLU's"
                        " layout without one: question, choices, the answer's letter"
                    )
                if not mmlu:
                    continue
            if len(cells) != len(names):
                raise UserError(f"{path}{place}: has {len(cells)} columns, the first line {len(names)}; quote texts with commas")
            choices = _filled([cells[column] for column in columns])
            answer = cells[names.index("answer")].strip()
            letters = [_letter(index) for index in range(len(choices))]
            # MMLU's is a letter even where that is also the text of another choice.
            known = letters.index(answer) if mmlu and answer in letters else answer
            yield _Row(place, cells[names.index("question")], choices, known, cells=True)
    except csv.Error as error:
        raise UserError(f"{path}:{line}: not valid CSV from here on ({error})") from None


class _Object(list[tuple[str, Any]]):
    """The pairs of a JSON object, repeated keys and all."""


def _read_json(path: Path, dropped: Counter[str]) -> Iterator[_Row]:
    try:
        content = json.loads("".join(text for _, text in lines.numbered(path)), object_pairs_hook=_Object)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON ({error.msg}); questions one a line belong in .jsonl") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
        raise UserError(f"{path}: not JSON that can be read ({error})") from None
    whole = dict(content) if isinstance(content, _Object) else {}
    questions = whole.get("questions")
    if not isinstance(questions, _Object):
        layout = '{"context": …, "questions": {question: {"choices": […], "answer": …}}}'
        raise UserError(f"{path}: not in the paper's layout, {layout}; questions one a line belong in .jsonl")
    context = str(whole.get("context") or "").strip()
    for number, (question, value) in enumerate(questions, start=1):
        item = dict(value) if isinstance(value, _Object) else {}
        choices = item.get("choices")
        if isinstance(choices, list) and any(isinstance(choice, str) and not choice.strip() for choice in choices):
            dropped["questions with an empty choice"] += 1  # the paper's own Skyrim set has five
            continue
        yield _Row(f": question {number}", question, choices, item.get("answer"), context)


_READERS: dict[str, Callable[[Path, Counter[str]], Iterator[_Row]]] = {
    ".csv": _read_csv,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
}
