"""Reads a GGUF file of ours back into the checkpoint's tensors, dequantized exactly as llama.cpp does it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minigpts.errors import UserError, blaming
from minigpts.gguf_layout.architectures import architecture_of
from minigpts.gguf_layout.places import Place, places
from minigpts.model import checkpoint
from minigpts.model.weights import Shapes, StoredWeights, Weights

if TYPE_CHECKING:
    import torch
    from gguf import ReaderTensor
    from transformers import PreTrainedConfig, PreTrainedModel


def file_in(exported: Path) -> Path | None:
    """The GGUF file of an export's folder; None where none was to be written. Raises UserError where there isn't exactly one."""
    files = sorted(exported.glob("*.gguf"))
    if not files and (exported / checkpoint.SKIPPED).exists():
        return None
    if len(files) != 1:
        raise UserError(f"{exported}: holds {len(files)} GGUF files, expected one; run `dvc repro export`")
    return files[0]


def load_model(exported: Path, directory: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model of the one GGUF file in the folder ``exported``, in ``dtype`` and eval mode: see :func:`exported_weights`."""
    return checkpoint.load_model(directory, dtype, exported_weights(exported, directory).items())


def exported_weights(exported: Path, directory: Path) -> DequantizedWeights:
    """The tensors of the one GGUF file in the folder ``exported``, as llama.cpp dequantizes them.

    ``directory`` is the checkpoint that the file was made from. Raises UserError for no or several files, or one of another
    checkpoint.
    """
    file = file_in(exported)
    if file is None:
        raise UserError(f"{exported}: no file was exported; set export.formats to [gguf] and run `dvc repro export`")
    return DequantizedWeights(file, checkpoint.load_config(directory), StoredWeights(directory).shapes)


class DequantizedWeights(Weights):
    """The tensors of the checkpoint that a GGUF file was made from, float32, by transformers' names."""

    def __init__(self, path: Path, config: PreTrainedConfig, shapes: Shapes) -> None:
        """``config`` and ``shapes`` are that checkpoint's. Raises UserError for a damaged file."""
        from gguf import GGUFReader

        with blaming(path, "not a whole GGUF file; export it again"):
            self.stored = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
        self.path, self.places = path, places(architecture_of(config), config, shapes)

    def __getitem__(self, name: str) -> torch.Tensor:
        """The tensor, dequantized. Raises UserError where the file is of another checkpoint."""
        import torch

        return torch.from_numpy(values(self.path, self.stored, self.places[name]))

    def __contains__(self, name: object) -> bool:
        return name in self.places

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def values(path: Path, stored: Mapping[str, ReaderTensor], place: Place) -> np.ndarray:
    """One tensor of the checkpoint from the file's tensors, float32 in memory of its own: the writer's steps undone.

    ``path`` is for messages. Raises UserError for a tensor that isn't there, has another shape or can't be dequantized.
    """
    from gguf.quants import dequantize

    if place.name not in stored:
        raise UserError(f"{path}: no tensor '{place.name}'; the file is of another model")
    tensor = stored[place.name]
    try:
        data = tensor.data if place.stacked is None else tensor.data[place.stacked[0]]
        found: np.ndarray = np.array(dequantize(data, tensor.tensor_type), dtype=np.float32)
    except NotImplementedError:
        raise UserError(f"{path}: tensor '{tensor.name}' is {tensor.tensor_type.name}, which gguf can't dequantize") from None
    if found.shape != place.shape:
        raise UserError(f"{path}: tensor '{place.name}' is {found.shape}, expected {place.shape}; the file is of another model")
    if place.row_order is not None:
        ordered = np.empty_like(found)
        ordered[place.row_order] = found
        found = ordered
    if place.logarithm:
        found = np.log(-found.astype(np.float64)).astype(np.float32)
    if place.offset:
        found -= np.float32(place.offset)
    return np.ascontiguousarray(found.T if place.transposed else found[:, None] if place.squeezed else found)
