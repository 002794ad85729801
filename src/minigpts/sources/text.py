"""The user's own text and questions from local files: jsonl, csv, parquet and txt (all but parquet also as .gz).

Plain readers rather than a data-set library's, because every complaint must name the file and the line.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from minigpts import artifacts
from minigpts.corpus.document import Corpus, Document, Question, normalized
from minigpts.errors import UserError

SOURCE = "local"


def read_corpus(path: Path, column: str) -> Corpus:
    """Every text of a file, or of all such files in a folder and below, in the order of their names.

    A jsonl object, a csv or parquet row is a document, its text in ``column``; in txt a document is a paragraph (blank lines
    around it). Empty texts are passed over. Copies of one text make a group. Raises UserError naming the file, and the line.
    """
    files = _files(path)
    documents = [_document(text) for file in files for text in _reader(file)(file, column) if text.strip()]
    if not documents:
        raise UserError(f"{path}: holds no text; give a file with at least some documents")
    return Corpus(documents, [], {SOURCE: {"name": path.name}})


def read_questions(path: Path) -> list[Question]:
    """Questions ``{question, choices, answer}`` from jsonl; the answer is a 0-based index or the right choice's text.

    Raises UserError naming file and line for a question without two distinct choices or a valid answer.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; dataset.questions must name a jsonl file, or be null")
    return [_question(row, f"{path}:{line}", f"{path.name}:{line}") for line, row in _json_rows(path)]


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; dataset.source must name your text, or be null")
    if path.is_file():
        _reader(path)
        return [path]
    files = sorted(file for file in path.rglob("*") if file.is_file() and _suffix(file) in _READERS)
    if not files:
        raise UserError(f"{path}: no text files in this folder; looked for {', '.join(sorted(_READERS))}")
    return files


def _suffix(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _reader(path: Path) -> Callable[[Path, str], Iterator[str]]:
    reader = _READERS.get(_suffix(path))
    if reader is None:
        raise UserError(f"{path}: not a kind of text file that is read here; use {', '.join(sorted(_READERS))}")
    return reader


def _document(text: str) -> Document:
    text = text.strip()
    return Document(text, hashlib.sha256(normalized(text).encode()).hexdigest()[:16], SOURCE)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines with their ends, decoded one by one so that a wrong byte is known by its line."""
    line = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for line, raw in enumerate(file, start=1):
                yield line, raw.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{line}: not UTF-8 (byte 0x{error.object[error.start]:02x}); convert the file to UTF-8") from None
    except (gzip.BadGzipFile, EOFError) as error:
        raise UserError(f"{path}: not a whole gzip file ({error}); make it or fetch it again") from None


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in _lines(path):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{line}: not valid JSON ({error.msg} at column {error.colno}); one object a line") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{line}: not a JSON object; one object a line")
        yield line, row


def _text_of(row: dict[str, Any], column: str, where: str) -> str:
    if column not in row:
        raise UserError(f"{where}: no column '{column}'; there is {', '.join(map(str, row))}; set dataset.text_column")
    value = row[column]
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: '{column}' holds {type(value).__name__}, not text; set dataset.text_column")
    return value or ""


def _read_jsonl(path: Path, column: str) -> Iterator[str]:
    for line, row in _json_rows(path):
        yield _text_of(row, column, f"{path}:{line}")


def _read_csv(path: Path, column: str) -> Iterator[str]:
    csv.field_size_limit(sys.maxsize)  # a document may be longer than the module's 128 kB
    reader = csv.DictReader((text for _, text in _lines(path)), strict=True)
    try:
        if reader.fieldnames is None:
            return
        _text_of(dict.fromkeys(reader.fieldnames), column, str(path))
        for row in reader:
            if row[column] is None:
                raise UserError(f"{path}:{reader.line_num}: has fewer columns than the first line")
            yield row[column]
    except csv.Error as error:
        raise UserError(f"{path}:{reader.reader.line_num}: not valid CSV ({error})") from None  # the wrapper's count lags behind


def _read_parquet(path: Path, column: str) -> Iterator[str]:
    for number, value in enumerate(artifacts.read_table(path, [column])[column], start=1):
        yield _text_of({column: value}, column, f"{path}: row {number}")


def _read_txt(path: Path, column: str) -> Iterator[str]:
    paragraph: list[str] = []
    for _, line in _lines(path):
        if line.strip():
            paragraph.append(line)
        else:
            yield "".join(paragraph)
            paragraph = []
    yield "".join(paragraph)


_READERS: dict[str, Callable[[Path, str], Iterator[str]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".txt": _read_txt,
}


def _question(row: dict[str, Any], where: str, id_: str) -> Question:
    question, choices, answer = (row.get(key) for key in ("question", "choices", "answer"))
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"{where}: 'question' must be text")
    if (
        not isinstance(choices, list)
        or len(choices) < 2
        or not all(isinstance(choice, str) and choice.strip() for choice in choices)
    ):
        raise UserError(f"{where}: 'choices' must be a list of at least two texts")
    choices = [choice.strip() for choice in choices]
    if len(set(choices)) < len(choices):
        raise UserError(f"{where}: 'choices' must differ from one another")
    if isinstance(answer, str) and answer.strip() in choices:
        answer = choices.index(answer.strip())
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise UserError(f"{where}: 'answer' must be one of the choices, or its index from 0 to {len(choices) - 1}, got {answer!r}")
    return Question(id_, question.strip(), tuple(choices), answer, None, question.strip())
