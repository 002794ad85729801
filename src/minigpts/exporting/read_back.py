"""Reads a GGUF file of ours back into the checkpoint's tensors, dequantized exactly as llama.cpp does it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
        yield name, torch.from_numpy(values(path, stored, place))


def values(path: Path, stored: Mapping[str, ReaderTensor], place: Place) -> np.ndarray:
    """One tensor of the checkpoint from the file's tensors, float32 in memory of its own: the writer's steps undone.

    ``path`` is for messages. Raises UserError for a tensor that isn't there, has another shape or can't be dequantized.
    """
    from gguf.quants import dequantize

    if place.name not in stored:
        raise UserError(f"{path}: no tensor '{place.name}'; the file is of another model")
    tensor = stored[place.name]
    try:
        found: np.ndarray = np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    except NotImplementedError:
        raise UserError(f"{path}: tensor '{tensor.name}' is {tensor.tensor_type.name}, which gguf can't dequantize") from None
    if place.stacked is not None:
        found = found[place.stacked[0]]
    if found.shape != place.shape:
        raise UserError(f"{path}: tensor '{place.name}' is {found.shape}, expected {place.shape}; the file is of another model")
    if place.row_order is not None:
        ordered = np.empty_like(found)
        ordered[place.row_order] = found
        found = ordered
    if place.offset:
        found -= np.float32(place.offset)
    return np.ascontiguousarray(found.T if place.transposed else found)
