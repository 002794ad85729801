"""The only reader and writer of what the stages exchange: tables, tensors, metrics and curves.

Every writer is atomic (a temporary sibling, then a rename) and deterministic (sorted keys, no dates), so that the same
input gives the same bytes and an interrupted stage leaves no half-written file under its final name.
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from minigpts.errors import UserError

if TYPE_CHECKING:
    import numpy
    import torch

COPY_BYTES = 1 << 24  # copied at a time where the kernel doesn't


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` to write a file or a folder at; rename it to ``path`` when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    _remove(temporary)
    try:
        yield temporary
        if temporary.is_dir():
            _remove(path)
        temporary.replace(path)
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
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
    return json.loads(_existing(path).read_text(encoding="utf-8"))


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one JSON object a line."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read what :func:`write_jsonl` wrote."""
    with _existing(path).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a curve for ``dvc plots``; the first row's keys are the columns."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(_rounded(list(rows)))


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a curve; the values are strings."""
    with _existing(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of equal length (lists or numpy arrays) as parquet."""
    import pyarrow
    import pyarrow.parquet

    with replacing(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.table(dict(columns)), temporary, compression="zstd")


@contextmanager
def table_writer(path: Path, columns: Sequence[str]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a function that appends rows to a parquet file of text columns: one row group a call, so no more is in memory."""
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(name, pyarrow.string()) for name in columns])
    with replacing(path) as temporary, pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
        yield lambda rows: writer.write_table(pyarrow.table(dict(rows), schema=schema))


def read_table(path: Path, columns: Sequence[str]) -> dict[str, list[Any]]:
    """Read the named columns of a parquet file as lists. Raises UserError when the file or a column is missing."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(_existing(path))
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path}: not a readable parquet file ({error})") from None
    for name in columns:
        if name not in table.column_names:
            raise UserError(f"{path}: no column '{name}'; it has {', '.join(table.column_names)}")
    return {name: table[name].to_pylist() for name in columns}


def stream_column(path: Path, column: str, batch_rows: int = 256) -> tuple[int, Iterator[Any]]:
    """The number of rows of a parquet file, and one column's values a few at a time, for files larger than memory."""
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(_existing(path))
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path}: not a readable parquet file ({error})") from None
    if column not in file.schema_arrow.names:
        raise UserError(f"{path}: no column '{column}'; it has {', '.join(file.schema_arrow.names)}")
    batches = file.iter_batches(batch_rows, columns=[column])
    return file.metadata.num_rows, (value for batch in batches for value in batch.column(0).to_pylist())


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors as safetensors (names sorted, contiguous). Raises UserError when the disk doesn't take them."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        try:
            save_file({name: tensors[name].contiguous() for name in sorted(tensors)}, temporary, dict(metadata or {}) or None)
        except SafetensorError as error:
            raise UserError(f"{path}: cannot be written ({error}); check the disk's space and permissions") from None
        temporary.chmod(0o644)  # safetensors leaves it to its owner alone, unlike every other file of a checkpoint


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in a safetensors file."""

    path: Path
    dtype: str  # safetensors' code: F32, BF16, F16, …
    shape: tuple[int, ...]
    start: int  # first byte in the file
    num_bytes: int


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of a safetensors file by name, sorted, from its header alone. Raises UserError as :func:`read_tensors`."""
    from safetensors import SafetensorError, safe_open

    try:
        safe_open(_existing(path), framework="np")  # checks the header against the file's length
    except SafetensorError as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); fetch or make it again") from None
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.tell()
    header.pop("__metadata__", None)
    return {
        name: StoredTensor(path, entry["dtype"], tuple(entry["shape"]), data + start, end - start)
        for name, entry in sorted(header.items())
        for start, end in [entry["data_offsets"]]
    }


class TensorWriter:
    """Writes a safetensors file tensor by tensor, in any order, so that what is in memory is one tensor and never a model.

    The layout is fixed beforehand: an eight-byte header length, a JSON header of names, dtypes, shapes and offsets, then the
    tensors' bytes in the order of their names (https://github.com/safetensors/safetensors#format).
    """

    def __init__(
        self, file: BinaryIO, shapes: Mapping[str, Sequence[int]], dtype: torch.dtype, metadata: Mapping[str, str]
    ) -> None:
        """Write the header of tensors of ``shapes``, all of ``dtype`` (a floating-point one of 2 or 4 bytes)."""
        import torch

        self.code = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}[dtype]
        header: dict[str, Any] = {"__metadata__": dict(metadata)}
        self.file, self.dtype, self.shapes, self.starts = file, dtype, shapes, dict[str, int]()
        end = 0
        for name in sorted(shapes):
            self.starts[name], end = end, end + math.prod(shapes[name]) * dtype.itemsize
            header[name] = {"dtype": self.code, "shape": list(shapes[name]), "data_offsets": [self.starts[name], end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # so that the data are aligned
        file.write(len(text).to_bytes(8, "little") + text)
        self.data = file.tell()

    def write(self, name: str, tensor: torch.Tensor | StoredTensor) -> None:
        """Write one tensor, or copy the bytes of one that is stored elsewhere.

        Raises KeyError for a name that was not announced, ValueError for another shape or dtype.
        """
        import torch

        if tuple(tensor.shape) != tuple(self.shapes[name]) or tensor.dtype not in (self.dtype, self.code):
            raise ValueError(f"{name}: {tensor.dtype} {tuple(tensor.shape)}, announced {self.dtype} {tuple(self.shapes[name])}")
        self.file.seek(self.data + self.starts.pop(name))
        if isinstance(tensor, StoredTensor):
            _copy_bytes(tensor, self.file)
        else:
            self.file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())  # type: ignore[call-overload]

    def missing(self) -> list[str]:
        """Names that were announced and have not been written."""
        return sorted(self.starts)


def _copy_bytes(tensor: StoredTensor, file: BinaryIO) -> None:
    """Append a stored tensor's bytes to ``file``: inside the kernel where it can, as ``cp`` does, at twice the speed.

    Raises UserError when the stored file ends too early.
    """
    file.flush()
    start, done = file.tell(), 0
    with tensor.path.open("rb") as source:
        with suppress(AttributeError, OSError):  # another system, or another file system: the loop below goes on
            while copied := os.copy_file_range(
                source.fileno(), file.fileno(), tensor.num_bytes - done, tensor.start + done, start + done
            ):
                done += copied
        source.seek(tensor.start + done)
        file.seek(start + done)
        while done < tensor.num_bytes:
            part = source.read(min(tensor.num_bytes - done, COPY_BYTES))
            if not part:
                raise UserError(f"{tensor.path}: shorter than its header says; fetch or make it again")
            done += file.write(part)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read every tensor of a safetensors file. Raises UserError for a truncated or foreign file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(_existing(path))
    except SafetensorError as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); fetch or make it again") from None


def read_arrays(path: Path) -> dict[str, numpy.ndarray]:
    """Read every tensor of a safetensors file as a numpy array, without torch (so no bfloat16)."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(_existing(path))
    except SafetensorError as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); fetch or make it again") from None


def _existing(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{path}: no such file; run `dvc repro` to make it")
    return path
