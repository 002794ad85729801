"""Reads a GGUF file of ours back into the checkpoint's tensors, dequantized exactly as llama.cpp does it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minigpts.errors import UserError, blaming
from minigpts.exporting.architectures import architecture_of
from minigpts.exporting.places import Place, places
from minigpts.model.weights import Shapes

if TYPE_CHECKING:
    import torch
    from gguf import ReaderTensor
    from transformers import PreTrainedConfig


def read(path: Path, config: PreTrainedConfig, shapes: Shapes) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of the checkpoint that the file was made from, float32, by transformers' names; one is in memory at a time.

    ``config`` and ``shapes`` are that checkpoint's. Raises UserError for a damaged file, or one of another checkpoint.
    """
    import torch
    from gguf import GGUFReader

    with blaming(path, "not a whole GGUF file; export it again"):
        stored = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    for name, place in places(architecture_of(config), config, shapes).items():
        if place.name not in stored:
            raise UserError(f"{path}: no tensor '{place.name}'; it was made from another checkpoint, export it again")
        yield name, torch.from_numpy(_values(path, stored[place.name], place))


def _values(path: Path, tensor: ReaderTensor, place: Place) -> np.ndarray:
    """One tensor's numbers as the checkpoint has them: the writer's steps undone, last one first."""
    values = dequantized(path, tensor)
    if place.stacked is not None:
        values = values[place.stacked[0]]
    if values.shape != place.shape:
        raise UserError(f"{path}: {place.name} is {values.shape}, expected {place.shape}; it was made from another checkpoint")
    if place.row_order is not None:
        ordered = np.empty_like(values)
        ordered[place.row_order] = values
        values = ordered
    values = values.T if place.transposed else values
    return np.ascontiguousarray(values - np.float32(place.offset) if place.offset else values)


def dequantized(path: Path, tensor: ReaderTensor) -> np.ndarray:
    """A tensor's numbers in float32, outermost dimension first, in memory of their own; ``path`` is for the message.

    Raises UserError for a type that the gguf package can't dequantize.
    """
    from gguf.quants import dequantize

    try:
        return np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    except NotImplementedError:
        raise UserError(f"{path}: tensor '{tensor.name}' is {tensor.tensor_type.name}, which gguf can't dequantize") from None
