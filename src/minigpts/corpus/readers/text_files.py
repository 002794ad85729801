"""Reads the user's own text from local files: rows of jsonl, json, csv, tsv and parquet, and prose in txt, markdown and documents.

All but parquet may be gzip, too. These are plain readers rather than a data-set library's, so that every complaint names the file
and the line. They stream, so a folder may be larger than memory.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any

from minigpts.corpus.document import Corpus, Document, normalized
from minigpts.corpus.passages import passages
from minigpts.corpus.readers import chat_rows, document_files, folders, lines, tables
from minigpts.corpus.readers.chat_rows import Chat, Layout, LeftOut
from minigpts.corpus.readers.missing import missing
from minigpts.corpus.readers.notes import note
from minigpts.errors import UserError
from minigpts.model.packing import Spans
from minigpts.untrusted import LARGEST_RATIO, is_bomb

if TYPE_CHECKING:
    from pyarrow.parquet import FileMetaData

Render = Callable[[Chat, str], tuple[str, Spans]]  # of a chat and where it stands; see Renderer.render

SOURCE = "local"
PROSE = (".markdown", ".md", ".txt", *document_files.KINDS)
# With fewer files of prose than this, whole files could not make up shares of a few percent.
FEW_FILES = 20
# What a tokenizer should not see: control characters but white space, and halves of surrogate pairs, which JSON can escape.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff]")
_BATCH_ROWS = 64  # of parquet in memory; a row may be a book
_BUFFER = 1 << 20  # bytes of each parquet column read ahead, rather than a whole row group's


@dataclass(frozen=True)
class Columns:
    """The columns that hold a row's text and its group."""

    text: str  # the column that holds the text,
    template: str | None = None  # or columns in text of their own: "English: {en}\nTaiwanese Mandarin: {zh}"
    group: str | None = None  # rows with the same value here share a split
    advice: str = "set dataset.text_column"  # where there is no such column

    def __post_init__(self) -> None:
        """Raise UserError for a template that can't be filled."""
        if self.template is not None and not any(name for _, name in self._parts):
            raise UserError(f"params.yaml: dataset.template must name a column in braces, got {self.template!r}")

    @cached_property
    def _parts(self) -> list[tuple[str, str | None]]:
        """The template as pairs of the text before a column and the column."""
        if self.template is None:
            return [("", self.text)]
        try:
            parsed = list(Formatter().parse(self.template))
        except ValueError as error:
            raise UserError(f"params.yaml: dataset.template: {str(error).lower()}; write {{{{ for a brace") from None
        if any(name is not None and (not name or spec or conversion) for _, name, spec, conversion in parsed):
            raise UserError(f"params.yaml: dataset.template may hold columns as {{name}} only, got {self.template!r}")
        return [(literal, name) for literal, name, _, _ in parsed]

    def names(self) -> dict[str, str]:
        """Every column that is read, and what to do where there is none."""
        advice = self.advice if self.template is None else "set dataset.template"
        asked = {name: advice for _, name in self._parts if name is not None}
        return asked if self.group is None else {self.group: "set dataset.group_column", **asked}

    def require(self, there: Iterable[str], where: str) -> None:
        """Raise a UserError unless every column is ``there``."""
        for name, advice in self.names().items():
            if name not in there:
                raise UserError(f"{where}: no column '{name}'; there is {', '.join(map(str, there))}; {advice}")

    def text_of(self, row: Mapping[str, Any], where: str) -> str:
        """The row's text; empty where a column of it is missing. A template takes numbers too.

        Raises UserError for a value that isn't text.
        """
        filled = ""
        for literal, name in self._parts:
            value = "" if name is None else row[name]
            if name is not None and missing(value):
                return ""
            if self.template is not None and isinstance(value, int | float) and not isinstance(value, bool):
                value = str(value)
            if not isinstance(value, str):
                raise UserError(f"{where}: '{name}' holds {type(value).__name__}, not text; {self.names()[str(name)]}")
            filled += literal + value
        return filled

    def group_of(self, row: Mapping[str, Any], dropped: Counter[str]) -> str | None:
        """The row's value in the group's column; None without one, or where it is missing, which ``dropped`` then counts."""
        if self.group is None:
            return None
        value = row[self.group]
        if missing(value):
            dropped["missing groups"] += 1
            return None
        return printable(str(value), Counter())


def read_corpus(path: Path, columns: Columns, param: str = "dataset.source", render: Render | None = None) -> Corpus:
    """The text of a file, or of all such files in a folder and below; chats among it become text by ``render``.

    Raises UserError naming ``param`` for a path without any.
    """
    texts = Texts(path, columns, param, render)
    return Corpus(texts, [], {SOURCE: {"name": path.name, "sha256": folders.digest(texts.files)}})


def documents(
    rows: Iterable[tuple[str, Mapping[str, Any]]],
    columns: Columns,
    source: str,
    dropped: Counter[str],
    chats: Chats | None = None,
) -> Iterator[Document]:
    """Turn rows, each with its location, into documents; a long row becomes several of one group, unless it is one of ``chats``.

    Without a value in the group's column, the group is a hash of the first passage's words, so that copies share it whatever
    their case and punctuation. Removes empty rows and control characters, and counts them in ``dropped``.
    Raises UserError naming the row for a missing column or a value that isn't text.
    """
    for where, row in rows:
        if chats is not None and (layout := chats.layout(row)) is not None:
            yield from chats.documents(layout, row, where, source, dropped)
            continue
        columns.require(row, where)
        text = columns.text_of(row, where)
        text = _one_line_end(text)
        group = columns.group_of(row, dropped)
        empty = True
        for passage in passages([printable(text, dropped)]):
            group, empty = group or _group(passage), False
            yield Document(passage, group, source)
        if empty:
            dropped["empty rows"] += 1


def printable(text: str, dropped: Counter[str]) -> str:
    """The text without control characters and halves of surrogate pairs, counted in ``dropped``."""
    clean, count = _UNPRINTABLE.subn("", text)
    if count:
        dropped["control characters"] += count
    return clean


def _one_line_end(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _group(text: str) -> str:
    return hashlib.sha256(normalized(text).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Chats:
    """The chats among a file's rows, as documents."""

    path: Path
    columns: Columns
    render: Render

    def layout(self, row: Mapping[str, Any]) -> Layout | None:
        """How the row holds a chat; None where it has the column of the text, or no chat."""
        if self.columns.template is not None or (layout := chat_rows.layout_of(row)) is None:
            return None
        if self.columns.text in row and not isinstance(row[self.columns.text], list):
            note(f"{self.path}: read as text by its column '{self.columns.text}', not as chats, layout {layout.name}")
            return None
        return layout

    def documents(
        self, layout: Layout, row: Mapping[str, Any], where: str, source: str, dropped: Counter[str]
    ) -> Iterator[Document]:
        """The row's chat as one document, however long; none, counted in ``dropped``, where nothing can be learnt from it.

        Raises UserError naming the row for what is no chat.
        """
        note(f"{self.path}: chats, layout {layout.name}")
        try:
            chat = chat_rows.read(layout, row, where, lambda text: printable(_one_line_end(text), dropped))
            if chat is None:
                dropped["empty rows"] += 1
                return
            text, spans = self.render(chat, where)
        except LeftOut as reason:
            if chat_rows.counted(dropped, reason):
                note(f"{where}: left out, the first of the {reason}" + (f" ({cause})" if (cause := reason.__cause__) else ""))
            return
        except RecursionError:
            raise UserError(f"{where}: lists or objects nested too deeply") from None
        if self.columns.group is not None and self.columns.group not in row:
            self.columns.require(row, where)
        yield Document(text, self.columns.group_of(row, dropped) or _group(chat.plain), source, chat.plain, spans)


class Texts:
    """Documents from local files, in the order of the files' names, read anew on each iteration.

    A JSON object, a row of a table, and a file of prose (txt, markdown, html, pdf, docx, epub) each become a document. A long one
    is cut into passages that share a group. With fewer than ``FEW_FILES`` files of prose each passage is a group of its own,
    since a single book could not be split otherwise. Then a test passage may follow a training passage; to prevent that, give a
    file for each chapter.
    """

    def __init__(self, path: Path, columns: Columns, param: str, render: Render | None = None) -> None:
        """Find the files. Raises UserError naming ``param`` when there are none, or what isn't installed to read one of them.

        Faults inside them are raised on reading.
        """
        self.path, self.columns, self.render = path, columns, render
        self._passed_over: Counter[str] = Counter()
        self.files = folders.text_files(path, KINDS, param, self._passed_over)
        document_files.require_libraries(self.files)
        self.dropped = self._passed_over.copy()  # what the last reading left out, by reason

    def __iter__(self) -> Iterator[Document]:
        """Read the files. Raises UserError naming the file and the line that can't be read, and when there is no text.

        Of html, pdf, docx and epub a file that can't be read is named on stderr, counted, and left out.
        """
        dropped = self.dropped = self._passed_over.copy()
        apart = sum(folders.suffix(file) in PROSE for file in self.files) < FEW_FILES
        empty = True
        for file in self.files:
            empty_file = True
            for document in self._read(file, apart, dropped):
                yield document
                empty = empty_file = False
            if empty_file:
                dropped["files without text"] += 1
        if empty:
            left_out = ", ".join(f"{reason}: {count}" for reason, count in sorted(dropped.items()))
            raise UserError(f"{self.path}: holds no text; give a file with at least some documents (left out: {left_out})")

    def _read(self, path: Path, apart: bool, dropped: Counter[str]) -> Iterator[Document]:
        if folders.suffix(path) not in PROSE:
            chats = None if self.render is None else Chats(path, self.columns, self.render)
            rows = _ROWS[folders.suffix(path)](path, self.columns, dropped, chats)
            yield from documents(rows, self.columns, SOURCE, dropped, chats)
        elif self.columns.template is not None or self.columns.group is not None:
            note(f"{path}: not read, since it has no columns for dataset.template or dataset.group_column")
            dropped["files without columns"] += 1
        else:
            group = None
            for passage in passages(printable(block, dropped) for block in _blocks(path, dropped)):
                group = _group(passage) if group is None or apart else group
                yield Document(passage, group, SOURCE)


def _blocks(path: Path, dropped: Counter[str]) -> Iterator[str]:
    """The text of a file of prose in blocks; none, counted in ``dropped``, of a document that can't be read."""
    if folders.suffix(path) not in document_files.KINDS:
        return lines.blocks(path)
    try:
        return iter([document_files.text(path)])
    except UserError as error:
        note(f"{error}; left out")
        dropped["documents that can't be read"] += 1
        return iter(())


Rows = Iterator[tuple[str, Mapping[str, Any]]]  # with where each stands


def _jsonl_rows(path: Path, columns: Columns, dropped: Counter[str], chats: Chats | None) -> Rows:
    return ((f"{path}:{line}", row) for line, row in lines.json_rows(path))


def _json_rows(path: Path, columns: Columns, dropped: Counter[str], chats: Chats | None) -> Rows:
    if not lines.holds_array(path):  # what lies beside data: settings, a description
        note(f"{path}: not read, since it holds no array of rows; where it has one on each line, name it .jsonl")
        dropped["json files without an array"] += 1
        return iter(())
    return ((f"{path}: row {number}", row) for number, row in lines.array_rows(path))


def _table_rows(path: Path, columns: Columns, dropped: Counter[str], chats: Chats | None) -> Rows:
    return ((f"{path}:{line}", row) for line, row in tables.rows(path, dropped))


def _parquet_rows(path: Path, columns: Columns, dropped: Counter[str], chats: Chats | None) -> Rows:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path, buffer_size=_BUFFER) as file:
            tables.require_distinct(file.schema_arrow.names, str(path))
            names = file.schema_arrow.names
            layout = None if chats is None or columns.template is not None else chat_rows.layout_of(names)
            if layout is None:
                columns.require(names, str(path))
            wanted = {*columns.names(), *(chat_rows.columns_of(layout, names) if layout else ())}
            if is_bomb(_unpacked_size(file.metadata, wanted), path.stat().st_size):
                raise UserError(f"{path}: unpacks to more than {LARGEST_RATIO} times its size, as no text does")
            for batch in file.iter_batches(_BATCH_ROWS, columns=[name for name in names if name in wanted]):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a readable parquet file after row {number} ({reason})") from None


def _unpacked_size(metadata: FileMetaData, wanted: Collection[str]) -> int:
    """The bytes that the wanted columns of a parquet file unpack to, as the file says."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema.partition(".")[0] in wanted)


_ROWS: dict[str, Callable[[Path, Columns, Counter[str], Chats | None], Rows]] = {
    ".csv": _table_rows,
    ".json": _json_rows,
    ".jsonl": _jsonl_rows,
    ".parquet": _parquet_rows,
    ".tsv": _table_rows,
}
KINDS = sorted([*_ROWS, *PROSE])
