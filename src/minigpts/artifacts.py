"""The only reader and writer of what the stages exchange: tables, metrics and curves.

Every writer is atomic (a temporary sibling, then a rename) and deterministic (sorted keys, no dates), so that the same
input gives the same bytes and an interrupted stage leaves no half-written file under its final name.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from minigpts.errors import UserError, blaming


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` to write a file or a folder at; rename it to ``path`` when all went well.

    Killed at any moment, it leaves the old one or the new one, whole: under its own name or, between the two renames that
    replace a folder, beside it, from where the next call takes it back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = _sibling(path, "partial"), _sibling(path, "old.partial")
    if old.exists() and not path.exists():
        old.rename(path)
    _remove(temporary)
    try:
        yield temporary
        if path.is_dir() or (temporary.is_dir() and path.exists()):  # a folder can't be renamed onto what is there
            discard(old)
            path.rename(old)
            try:
                temporary.rename(path)
            except OSError:
                old.rename(path)
                raise
        else:
            temporary.replace(path)
        discard(old)
    finally:
        _remove(temporary)


def discard(path: Path) -> None:
    """Remove a file or a folder if it is there, renamed first: a removal cut short leaves nothing that looks whole."""
    doomed = _sibling(path, "partial")
    _remove(doomed)
    if path.exists():
        path.rename(doomed)
        _remove(doomed)


def _sibling(path: Path, suffix: str) -> Path:
    return path.with_name(f".{path.name}.{suffix}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, values: Mapping[str, Any] | Sequence[str]) -> None:
    """Write metrics: sorted keys, floats to eight significant digits (beyond them lies the order of summation)."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_rounded(values), indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def read_json(path: Path) -> dict[str, Any]:
    """Read a mapping written by :func:`write_json`."""
    with _whole(path):
        return json.loads(existing(path).read_text(encoding="utf-8"))


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one JSON object a line."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read what :func:`write_jsonl` wrote."""
    with _whole(path), existing(path).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a curve for ``dvc plots``; the first row's keys are the columns."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(_rounded(list(rows)))


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a curve; the values are strings. Raises UserError when the file is missing or cut short."""
    with _whole(path), existing(path).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
        if not rows or any(None in (*row, *row.values()) for row in rows):
            raise ValueError("rows or columns are missing")
        return rows


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of equal length (lists or numpy arrays) as parquet."""
    import pyarrow
    import pyarrow.parquet

    with replacing(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.table(dict(columns)), temporary, compression="zstd")


@contextmanager
def table_writer(path: Path, columns: Sequence[str]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a function that appends rows to a parquet file of text columns: one row group a call, so no more is in memory.

    A column whose name ends in ``spans`` holds lists of pairs of integers.
    """
    import pyarrow
    import pyarrow.parquet

    spans = pyarrow.list_(pyarrow.list_(pyarrow.int64()))
    schema = pyarrow.schema([(name, spans if name.endswith("spans") else pyarrow.string()) for name in columns])
    with replacing(path) as temporary, pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
        yield lambda rows: writer.write_table(pyarrow.table(dict(rows), schema=schema))


def read_table(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> dict[str, list[Any]]:
    """Read the named columns of a parquet file as lists, an ``optional`` one that isn't there as Nones.

    Raises UserError when the file or another column is missing, or the file is damaged.
    """
    import pyarrow.parquet

    with _whole(path):
        table = pyarrow.parquet.read_table(existing(path))
        for name in columns:
            if name not in table.column_names:
                raise UserError(f"{path}: no column '{name}'; it has {', '.join(table.column_names)}")
        there = {name: table[name].to_pylist() for name in (*columns, *optional) if name in table.column_names}
    return {name: there.get(name, [None] * table.num_rows) for name in (*columns, *optional)}


def stream_column(path: Path, column: str, batch_rows: int = 256) -> tuple[int, Iterator[Any]]:
    """The number of rows of a parquet file, and one column's values a few at a time, for files larger than memory.

    Raises UserError as :func:`read_table`, the values too.
    """
    import pyarrow.parquet

    with _whole(path):
        file = pyarrow.parquet.ParquetFile(existing(path))
        if column not in file.schema_arrow.names:
            raise UserError(f"{path}: no column '{column}'; it has {', '.join(file.schema_arrow.names)}")

    def values() -> Iterator[Any]:
        batches = file.iter_batches(batch_rows, columns=[column])
        while True:
            with _whole(path):
                batch = next(batches, None)
                found = [] if batch is None else batch.column(0).to_pylist()
            if batch is None:
                return
            yield from found

    return file.metadata.num_rows, values()


def _whole(path: Path) -> AbstractContextManager[None]:
    """Turn what a library says of a damaged file into a UserError that names it."""
    return blaming(path, "not a whole file of its kind; run `dvc repro` to make it again")


def existing(path: Path) -> Path:
    """``path`` itself. Raises UserError when nothing lies there."""
    if not path.exists():
        raise UserError(f"{path}: no such file; run `dvc repro` to make it")
    return path
