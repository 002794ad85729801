"""Safetensors, tensor by tensor: the one place that knows the format, with its one reader and one writer.

What is in memory is one tensor and never a model. Nothing here imports torch until a torch tensor is asked for.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from minigpts.artifacts import existing, replacing
from minigpts.errors import UserError

if TYPE_CHECKING:
    import numpy
    import torch

WEIGHTS = "model.safetensors"  # the weights file of every checkpoint folder
COPY_BYTES = 1 << 24  # copied at a time where the kernel doesn't

Shapes = Mapping[str, tuple[int, ...]]
NamedTensors = Iterable[tuple[str, "torch.Tensor | StoredTensor"]]

DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}  # of a checkpoint: the format's codes, torch's names


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

    def read(self) -> torch.Tensor:
        """The tensor itself, on the CPU, in memory of its own."""
        import numpy
        import torch

        stored = torch.from_numpy(numpy.fromfile(self.path, numpy.uint8, self.num_bytes, offset=self.start))
        return stored.view(getattr(torch, DTYPES[self.dtype])).view(self.shape)


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of a safetensors file by name, sorted, from its header alone. Raises UserError as :func:`read_tensors`."""
    from safetensors import SafetensorError, safe_open

    try:
        safe_open(existing(path), framework="np")  # checks the header against the file's length
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
        self.code = {f"torch.{name}": code for code, name in DTYPES.items()}[str(dtype)]
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
        return load_file(existing(path))
    except SafetensorError as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); fetch or make it again") from None


def read_arrays(path: Path) -> dict[str, numpy.ndarray]:
    """Read every tensor of a safetensors file as a numpy array, without torch (so no bfloat16)."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(existing(path))
    except SafetensorError as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); fetch or make it again") from None


class Weights(Mapping[str, "torch.Tensor"]):
    """The tensors of a checkpoint by name, each made when it is asked for; a tied lm_head has no entry of its own."""

    def under(self, module: str) -> dict[str, torch.Tensor]:
        """The tensors of one module, by their names below it."""
        prefix = f"{module}."
        return {name.removeprefix(prefix): self[name] for name in self if name.startswith(prefix)}


class StoredWeights(Weights):
    """Those of the folder's own weights file, each read from disk."""

    def __init__(self, directory: Path) -> None:
        """Read names, shapes and places. Raises UserError for a truncated or foreign file."""
        self.path = directory / WEIGHTS
        self.entries = stored_tensors(self.path)
        self.shapes: Shapes = {name: entry.shape for name, entry in self.entries.items()}

    def __getitem__(self, name: str) -> torch.Tensor:
        """The tensor as it is stored."""
        return self.entries[name].read()

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def dtype(self) -> torch.dtype:
        """The one dtype of a checkpoint's tensors."""
        return self[min(self.shapes, key=lambda name: len(self.shapes[name]))].dtype


def num_parameters(shapes: Shapes) -> int:
    """Numbers in all tensors of ``shapes``."""
    return sum(math.prod(shape) for shape in shapes.values())
