"""Tables in text files, row by row: csv and tsv, each by the rules of those who write it."""

from __future__ import annotations

import csv
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from minigpts.corpus.readers import lines
from minigpts.errors import UserError

QUOTE = '"'


def rows(path: Path, dropped: Counter[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows by the names of the first, each with the number of the line it begins on; a name that ends in .tsv is one of tsv.

    Skips blank lines. What is counted in ``dropped`` is said at :func:`tsv_cells`. Raises UserError as the two readers of cells,
    for two columns of one name and for a wrong number of columns.
    """
    tabs = path.name.lower().removesuffix(".gz").endswith(".tsv")
    header: list[str] = []
    for line, cells in tsv_cells(path, dropped) if tabs else csv_cells(path):
        if not header:
            header = cells
            require_distinct(header, f"{path}:{line}")
        elif len(cells) != len(header):
            raise _wrong_number(path, line, len(cells), len(header))
        else:
            yield line, dict(zip(header, cells, strict=True))


def require_distinct(names: Sequence[str], where: str) -> None:
    """Raise a UserError that names the first of two columns with the same name; nameless ones are none."""
    if twice := next((name for name, count in Counter(names).items() if name and count > 1), None):
        raise UserError(f"{where}: two columns are named '{twice}'; rename one of them")


def csv_cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row of a csv file, with the number of the line it begins on; a quoted text may take several lines.

    Skips blank lines. Raises UserError as ``lines.numbered``, and for a quote that isn't closed.
    """
    csv.field_size_limit(lines.LONGEST_LINE)  # a document may exceed the module's 128 kB; an unclosed quote may not take all
    reader = csv.reader((text for _, text in lines.numbered(path)), strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{line}: not valid CSV from here on ({error})") from None


def tsv_cells(path: Path, dropped: Counter[str]) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row of a tsv file, with the number of the line it begins on.

    Most writers of tsv quote nothing, so a quotation mark is text unless the field also ends with one and doubles those in
    between, as pandas and spreadsheets do. Such a field may hold tabs and span lines if the row then has as many columns as the
    first, so that it swallows no other row. A whole row that ends in an open quote keeps it as text and is counted in
    ``dropped``. Skips blank lines. Raises UserError as ``lines.numbered``, and for a wrong number of columns.
    """
    source, width = _Lines(path), 0
    while (taken := source.take()) is not None:
        line, text = taken
        if not text.strip("\n "):
            continue
        width = width or text.count("\t") + 1
        cells = _tsv_row(source, text, width, dropped)
        if len(cells) != width:
            raise _wrong_number(path, line, len(cells), width)
        yield line, cells


def _tsv_row(source: _Lines, text: str, width: int, dropped: Counter[str]) -> list[str]:
    """The cells of the row that begins with the line ``text``; they are not ``width`` where it is no row."""
    cells = text.split("\t")
    if len(cells) > width:  # tabs inside quotes?
        quoted = _by_csv(text)
        return quoted if len(quoted) == width else cells
    if _opens(cells[-1]):
        joined = _joined(source, text, width) if width > 1 else []
        if not joined and len(cells) == width:
            dropped["quotes open at the end of a line"] += 1
        cells = joined or cells
    return [unquoted(cell) for cell in cells]


class _Lines:
    """Numbered lines without their ends, some of which may be given back."""

    def __init__(self, path: Path) -> None:
        self._lines, self._back = lines.numbered(path), deque[tuple[int, str]]()

    def take(self) -> tuple[int, str] | None:
        if self._back:
            return self._back.popleft()
        return next(((line, text.rstrip("\r\n")) for line, text in self._lines), None)

    def give_back(self, taken: Sequence[tuple[int, str]]) -> None:
        self._back.extendleft(reversed(taken))


def _joined(source: _Lines, text: str, width: int) -> list[str]:
    """The cells of ``text`` and the lines that its open quote joins to it; empty, and no line taken, where that is no row."""
    taken: list[tuple[int, str]] = []
    tabs, size = text.count("\t"), len(text)
    while (following := source.take()) is not None:
        taken.append(following)
        tabs, size = tabs + following[1].count("\t"), size + len(following[1])
        if tabs >= width or size > lines.LONGEST_LINE:
            break
        if QUOTE in following[1]:
            cells = "\n".join([text, *(each for _, each in taken)]).split("\t")
            if _opens(cells[-1]):
                continue
            if len(cells) == width and all(_is_quoted(cell) for cell in cells if "\n" in cell):
                return cells
            break
    source.give_back(taken)
    return []


def _by_csv(text: str) -> list[str]:
    """The cells of a line by the rules of csv; empty for a line that breaks them."""
    with suppress(csv.Error):
        return next(csv.reader([text], delimiter="\t", strict=True))
    return []


def _is_quoted(cell: str) -> bool:
    return len(cell) > 1 and cell[0] == cell[-1] == QUOTE and QUOTE not in cell[1:-1].replace(QUOTE * 2, "")


def _opens(cell: str) -> bool:
    """Whether a quote opens here and isn't closed."""
    return cell.startswith(QUOTE) and QUOTE not in cell[1:].replace(QUOTE * 2, "")


def unquoted(cell: str) -> str:
    """The text of a cell of tsv: without its quotes where it ends as it begins, with one, and doubles those in between."""
    return cell[1:-1].replace(QUOTE * 2, QUOTE) if _is_quoted(cell) else cell


def _wrong_number(path: Path, line: int, found: int, width: int) -> UserError:
    difference = "fewer" if found < width else "more"
    return UserError(f"{path}:{line}: has {difference} columns than the first line ({found}, not {width})")
