"""The user's own multiple-choice questions from local files (all also as .gz), and rows of questions from anywhere else.

* ``.jsonl``: ``{"question": …, "choices": […], "answer": …}``, one a line; ``.json``: one array of such objects.
* ``.csv``: with a header: ``question``, ``answer`` and a column for each choice, ``A``, ``B``, … or ``option 1``, ``option 2``, …;
  or MMLU's layout without one: question, choices, the answer's letter.
* ``.json`` also: the layout of the Mini-GPTs paper's own sets (github.com/tval2/contextual-pruning, ``question_datasets``):
  ``{"context": …, "questions": {question: {"choices": […], "answer": …}}}``. Its context line is put above each question.

In all but the last, a question, its choices and its answer may also have the names of :mod:`.question_columns`. An answer is an
index from 0, a letter or the right choice's text. Questions may differ in their number of choices.
"""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from minigpts.corpus.document import Question
from minigpts.corpus.readers import lines, tables
from minigpts.corpus.readers.missing import missing
from minigpts.corpus.readers.notes import listed, note
from minigpts.corpus.readers.question_columns import QUESTION, Layout, described, layout
from minigpts.corpus.readers.question_rows import Row, checked, distinct, filled, index_of, letter
from minigpts.errors import UserError


def read_questions(path: Path, dropped: Counter[str]) -> list[Question]:
    """The questions of a file; what was left out, and why, is added to ``dropped``.

    Raises UserError naming file and row for a question without two distinct choices or a valid answer.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; dataset.questions must name a file of questions, or be null")
    reader = _READERS.get(Path(path.name.removesuffix(".gz")).suffix.lower())
    if reader is None:
        raise UserError(f"{path}: not a kind of file questions are read from; use {', '.join(sorted(_READERS))}")
    rows = list(reader(path, dropped))
    base = _base(path, rows)
    found = [checked(row, f"{path}{row.place}", f"{path.name}{row.place}", dropped, base) for row in rows]
    if not found:
        raise UserError(f"{path}: holds no question; dataset.questions must name a file with some, or be null")
    return distinct(found, dropped)


def _base(path: Path, rows: Sequence[Row]) -> int:
    """0 or 1, from which the answers count the choices where the columns' names leave it open.

    Raises UserError where the file's numbers leave it open, too.
    """
    open_ = [row for row in rows if row.counted and isinstance(row.choices, list)]
    places = [(index_of(row), len(row.choices)) for row in open_ if str(row.answer).strip() not in row.choices]
    numbers = [(number, count) for number, count in places if number is not None]
    first, last = any(number == 0 for number, _ in numbers), any(number == count for number, count in numbers)
    if numbers and first == last:
        raise UserError(f"{path}: can't tell whether its answers count the choices from 0 or from 1; give letters or texts")
    if numbers:
        note(f"{path}: the answers count the choices from {int(last)}, as their smallest and largest show")
    return int(last)


def _read_jsonl(path: Path, dropped: Counter[str]) -> Iterator[Row]:
    return _objects(path, ((f":{line}", row) for line, row in lines.json_rows(path)), dropped)


def _objects(path: Path, rows: Iterable[tuple[str, dict[str, Any]]], dropped: Counter[str]) -> Iterator[Row]:
    """The questions of JSON objects, each with its place in the file."""
    layouts: dict[tuple[str, ...], Layout] = {}
    for place, row in rows:
        if isinstance(nested := row.get("question"), dict):  # ARC's own files: {"question": {"stem": …, "choices": …}}
            row = {name: value for name, value in row.items() if name != "question"} | nested
        names = tuple(row)
        if names not in layouts:
            layouts[names] = layout(names, f"{path}{place}")
            if layouts[names].missing:
                raise UserError(f"{path}{place}: {described(names, layouts[names].missing)}")
        yield _row(place, row, layouts[names], dropped)
    _say_unused(path, dict.fromkeys(name for each in layouts.values() for name in each.unused))


def _row(place: str, row: Mapping[str, Any], columns: Layout, dropped: Counter[str], cells: bool = False) -> Row:
    question, answer = row[columns.question], row[columns.answer]
    found: Any = [row[name] for name in columns.choices]
    if columns.wrong:
        return Row(place, question, filled([answer, *found], dropped), 0)
    if columns.listed:
        found, answer = _labelled(found[0], answer)
    return Row(place, question, filled(found, dropped), answer, cells=cells, counted=columns.counted)


def _labelled(choices: Any, answer: Any) -> tuple[Any, Any]:
    """The choices out of one value, and the answer; its index, where the choices have labels and it is one of them."""
    if isinstance(choices, str) and choices.lstrip()[:1] in ("[", "{"):  # in a cell of csv, as JSON or as Python prints it
        for read in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                return _labelled(read(choices), answer)
    if isinstance(choices, dict) and set(choices) == {"text", "label"}:
        choices, labels = choices["text"], choices["label"]
    elif isinstance(choices, dict):  # {"A": …, "B": …}
        choices, labels = list(choices.values()), list(choices)
    elif isinstance(choices, list) and choices and all(isinstance(choice, dict) for choice in choices):
        labels = [choice.get("label") for choice in choices]
        choices = [choice.get("text") for choice in choices]
    else:
        return choices, answer
    return choices, labels.index(answer) if isinstance(labels, list) and answer in labels else answer


def _say_unused(path: Path, names: Iterable[str]) -> None:
    if unused := list(names):
        note(f"{path}: columns not used: {listed(unused)}")


def _read_csv(path: Path, dropped: Counter[str]) -> Iterator[Row]:
    table = [(line, cells) for line, cells in tables.csv_cells(path) if any(cell.strip() for cell in cells)]
    if not table:
        return
    start, header = table[0][0], [cell.strip() for cell in table[0][1]]
    for line, cells in table:
        if len(cells) != len(header):
            raise UserError(f"{path}:{line}: has {len(cells)} columns, the first line {len(header)}; quote texts with commas")
    if _has_no_header(table):
        yield from _mmlu_rows(path, table, dropped)
        return
    tables.require_distinct(header, f"{path}:{start}")
    columns = layout(header, f"{path}:{start}")
    if columns.missing:
        mmlu = "or give MMLU's layout without a header: question, choices, the answer's letter"
        raise UserError(f"{path}:{start}: {described(header, columns.missing)}; {mmlu}")
    _say_unused(path, columns.unused)
    for line, cells in table[1:]:
        yield _row(f":{line}", dict(zip(header, cells, strict=True)), columns, dropped, cells=True)


def _has_no_header(table: Sequence[tuple[int, Sequence[str]]]) -> bool:
    """Whether line 1 is a question of MMLU's layout: its last cell is the letter of a choice, as most last cells are letters."""
    first = [cell.strip() for cell in table[0][1]]
    letters = sum(len(last := cells[-1].strip()) == 1 and "A" <= last <= "Z" for _, cells in table)
    fits = len(first) >= 4 and first[-1] in [letter(index) for index in range(len(first) - 2)]
    named = next((cell.lower() for cell in first if cell.lower() not in ("", "id", "index")), "") in QUESTION
    return fits and 2 * letters > len(table) and not named


def _mmlu_rows(path: Path, table: Sequence[tuple[int, list[str]]], dropped: Counter[str]) -> Iterator[Row]:
    """The rows of a table without a header, nor the numbers that pandas may have put in front of it."""
    index = [cells[0].strip() for _, cells in table]
    numbered = any(index == [str(number + base) for number in range(len(table))] for base in (0, 1)) and len(table[0][1]) > 4
    note(f"{path}: no header; read as question, choices, the answer's letter{', behind a column of numbers' * numbered}")
    for line, cells in table:
        question, *choices, answer = cells[numbered:]
        found, answer = filled(choices, dropped), answer.strip()
        letters = [letter(place) for place in range(len(found))]
        # A letter names its choice, even where it is also the text of another.
        yield Row(f":{line}", question, found, letters.index(answer) if answer in letters else answer, cells=True)


class _Object(list[tuple[str, Any]]):
    """The pairs of a JSON object, repeated keys and all."""


def _once(pairs: _Object, where: str) -> dict[str, Any]:
    """The object, in which a key that comes twice would mean two things. Raises UserError for one."""
    if twice := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
        raise UserError(f"{where}: two keys are named '{twice[0]}'; rename one of them")
    return dict(pairs)


def _read_json(path: Path, dropped: Counter[str]) -> Iterator[Row]:
    if lines.holds_array(path):
        return _objects(path, ((f": row {number}", row) for number, row in lines.array_rows(path)), dropped)
    return _paper_rows(path, dropped)


def _paper_rows(path: Path, dropped: Counter[str]) -> Iterator[Row]:
    try:
        content = json.loads("".join(text for _, text in lines.numbered(path)), object_pairs_hook=_Object)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON ({error.msg}); questions one a line belong in .jsonl") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
        raise UserError(f"{path}: not JSON that can be read ({error})") from None
    whole = _once(content, str(path)) if isinstance(content, _Object) else {}
    questions = whole.get("questions")
    if not isinstance(questions, _Object):
        layout = '{"context": …, "questions": {question: {"choices": […], "answer": …}}}'
        raise UserError(f"{path}: not in the paper's layout, {layout}; questions one a line belong in .jsonl")
    context = str(whole.get("context") or "").strip()
    for number, (question, value) in enumerate(questions, start=1):
        item = _once(value, f"{path}: question {number}") if isinstance(value, _Object) else {}
        choices = item.get("choices")
        if isinstance(choices, list) and any(isinstance(choice, str) and missing(choice) for choice in choices):
            dropped["questions with an empty choice"] += 1  # the paper's own Skyrim set has five
            continue
        yield Row(f": question {number}", question, choices, item.get("answer"), context)


_READERS: dict[str, Callable[[Path, Counter[str]], Iterator[Row]]] = {
    ".csv": _read_csv,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
}
