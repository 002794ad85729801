"""Text files, plain or gzip, line by line, row by row or block by block: every complaint names the file and the line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from minigpts.corpus.readers import encodings
from minigpts.errors import UserError

# Characters. A line is held whole, a few times over and in up to four bytes a character: 200 MB of one would take gigabytes.
LONGEST_LINE = 1 << 25
_BLOCK = 1 << 16


@contextmanager
def _text(path: Path, newline: str | None) -> Iterator[TextIO]:
    encoding = encodings.encoding_of(path)
    with encodings.opened(path) as file, io.TextIOWrapper(file, encoding, newline=newline) as text:  # type: ignore[type-var]
        yield text


def blocks(path: Path) -> Iterator[str]:
    """The file's text in blocks of bounded size, however long its lines are; all line ends are ``\\n``."""
    with _text(path, newline=None) as text:
        while block := text.read(_BLOCK):
            yield block


def numbered(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines with their ends: ``\\n``, ``\\r\\n`` or ``\\r``.

    Raises UserError as ``encodings.encoding_of``, and for a line of ``LONGEST_LINE`` characters.
    """
    with _text(path, newline="") as text:
        for number, line in enumerate(iter(lambda: text.readline(LONGEST_LINE), ""), start=1):
            if len(line) == LONGEST_LINE:
                raise UserError(
                    f"{path}:{number}: a line of {LONGEST_LINE:,} characters or more; put one row on a line,"
                    " or a single long text into a txt file, where lines may be of any length"
                )
            yield number, line


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered JSON objects, one a line; blank lines are passed over."""
    for line, text in numbered(path):
        if text.isspace():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{line}: not valid JSON ({error.msg} at column {error.colno}); one object a line") from None
        except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
            raise UserError(f"{path}:{line}: not JSON that can be read ({error})") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{line}: not a JSON object; one object a line")
        yield line, row


def csv_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows by the names of the first, with the number of the line each begins on; tabs part the columns of a .tsv.

    Blank lines are passed over. Raises UserError as :func:`numbered`, for a quote that isn't closed and a wrong number of columns.
    """
    csv.field_size_limit(LONGEST_LINE)  # a document may be longer than the module's 128 kB; an unclosed quote may not take all
    delimiter = "\t" if path.name.lower().removesuffix(".gz").endswith(".tsv") else ","
    reader = csv.reader((text for _, text in numbered(path)), delimiter=delimiter, strict=True)
    line = 1
    header: list[str] = []
    try:
        for cells in reader:
            if not header:
                header = cells
                if twice := [name for name in header if name and header.count(name) > 1]:
                    raise UserError(f"{path}:{line}: two columns are named '{twice[0]}'; the first line must tell columns apart")
            elif cells and len(cells) != len(header):
                difference = "fewer" if len(cells) < len(header) else "more"
                raise UserError(f"{path}:{line}: has {difference} columns than the first line")
            elif cells:
                yield line, dict(zip(header, cells, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{line}: not valid CSV from here on ({error})") from None
