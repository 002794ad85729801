"""Writes a checkpoint as a GGUF file, tensor by tensor in any order; what is in memory is the header and one tensor.

The layout is fixed beforehand: magic, version, counts, metadata, then name, shape, type and offset of each tensor, then their
bytes, each aligned (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). The same input gives the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from minigpts import artifacts
from minigpts.exporting.hyperparameters import Fields, hyperparameters, rope_factors
from minigpts.gguf_layout.architectures import architecture_of
from minigpts.gguf_layout.places import Place, places
from minigpts.model.weights import Shapes
from minigpts.quantization.formats import FORMATS, BlockFormat, PackedWeight, num_bytes

if TYPE_CHECKING:
    import torch
    from gguf import GGUFWriter
    from transformers import PreTrainedConfig

Formats = Mapping[str, BlockFormat]  # of a checkpoint's tensors, by transformers' name; one that isn't there is plain float32
PLAIN = FORMATS["F32"]


@dataclass(frozen=True)
class Layout:
    """A GGUF file before its tensors are written."""

    header: bytes  # up to the first tensor, aligned
    starts: Mapping[str, int]  # first byte in the file, by the file's name
    num_bytes: int  # of the whole file
    places: Mapping[str, Place]  # of the checkpoint's tensors
    factors: Mapping[str, np.ndarray]  # tensors that come from the config

    def bytes_of(self, name: str, formats: Formats) -> int:
        """Bytes that a tensor of the checkpoint takes in the file, a copy's included."""
        place = self.places[name]
        return num_bytes(formats.get(name, PLAIN), place.shape) * (2 if place.copy else 1)


def layout(config: PreTrainedConfig, shapes: Shapes, formats: Formats, metadata: Fields) -> Layout:
    """The header of a file with these tensors and places for them.

    ``metadata`` is what the config doesn't say: the tokenizer's section and the general one. Raises UserError for a model that
    llama.cpp can't hold.
    """
    from gguf import GGUFWriter

    architecture = architecture_of(config)
    found, factors = places(architecture, config, shapes), rope_factors(config)
    writer = GGUFWriter(None, architecture.name)
    for key, value in {**metadata, **hyperparameters(architecture, config, shapes), **_types(found, formats)}.items():
        _add(writer, key, value)
    sizes: dict[str, int] = {}
    for name, array in factors.items():
        sizes[name] = _announce(writer, name, array.shape, PLAIN)
    for name, place in found.items():
        shape = place.shape if place.stacked is None else (place.stacked[1], *place.shape)
        for stored in [place.name, *([place.copy] if place.copy else [])]:
            if stored not in sizes:
                sizes[stored] = _announce(writer, stored, shape, formats.get(name, PLAIN))
    header, starts = _header(writer), {}
    end = len(header)
    for stored, size in sizes.items():
        starts[stored], end = end, end + writer.ggml_pad(size, writer.data_alignment)
    return Layout(header, starts, end, found, factors)


def file_bytes(config: PreTrainedConfig, shapes: Shapes, formats: Formats, metadata: Fields) -> int:
    """The exact size of the file that :func:`write` would write, without writing one."""
    return layout(config, shapes, formats, metadata).num_bytes


def write(
    path: Path,
    config: PreTrainedConfig,
    shapes: Shapes,
    formats: Formats,
    metadata: Fields,
    weights: Iterable[tuple[str, torch.Tensor | PackedWeight]],
) -> Layout:
    """Write the file, whole or not at all, and return its layout.

    ``weights`` are the checkpoint's tensors in any order, each as it is stored (float32, bfloat16 or float16) or packed in its
    announced format, rows being output features. Raises UserError as :func:`layout`, and ValueError for a tensor in another
    format or shape than announced, or a missing one.
    """
    plan = layout(config, shapes, formats, metadata)
    missing = set(plan.places)
    with artifacts.replacing(path) as temporary, temporary.open("wb") as file:
        file.truncate(plan.num_bytes)
        file.write(plan.header)
        for name, array in plan.factors.items():
            _write_at(file, plan.starts[name], array)
        for name, weight in weights:
            missing.remove(name)
            place, rows = plan.places[name], _stored_rows(name, weight, plan.places[name], formats.get(name, PLAIN))
            start = rows.nbytes * place.stacked[0] if place.stacked else 0
            for stored in [place.name, *([place.copy] if place.copy else [])]:
                _write_at(file, plan.starts[stored] + start, rows)
        if missing:
            raise ValueError(f"tensors announced and not written: {', '.join(sorted(missing))}")
    return plan


def _write_at(file: BinaryIO, start: int, array: np.ndarray) -> None:
    file.seek(start)
    file.write(np.ascontiguousarray(array).data)


def _stored_rows(name: str, weight: torch.Tensor | PackedWeight, place: Place, block_format: BlockFormat) -> np.ndarray:
    """The tensor's bytes as the file has them: uint8 (rows, bytes of a row), a vector's numbers being its rows."""
    if isinstance(weight, PackedWeight):
        stored, rows = weight.block_format, weight.data
        shape: tuple[int, ...] = weight.shape
    else:
        tensor = weight.T if place.transposed else weight.squeeze(1) if place.squeezed else weight
        values = -tensor.double().exp() if place.logarithm else tensor.float() + place.offset if place.offset else tensor
        stored, rows = block_format, _plain_rows(values, block_format)
        shape = tuple(tensor.shape)
    if shape != place.shape or stored != block_format:
        raise ValueError(f"{name}: {stored.name} {shape}, announced {block_format.name} {place.shape}")
    return rows if place.row_order is None else rows[place.row_order]


def _plain_rows(tensor: torch.Tensor, block_format: BlockFormat) -> np.ndarray:
    """A tensor's rows as uint8 in a format of plain numbers. Raises ValueError for one of blocks, which is for who rounds."""
    import torch

    dtypes = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    if block_format.name not in dtypes:
        raise ValueError(f"a plain tensor for {block_format.name}; pack it first")
    numbers = tensor.to(dtypes[block_format.name]).contiguous()
    return numbers.reshape(len(numbers), -1).view(torch.uint8).numpy()


# The header, as the gguf package writes it


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    """Add a field in the type that llama.cpp reads: bool, uint32, float32, text, or an array of them (int32 for whole numbers)."""
    from gguf import GGUFValueType

    kinds = {bool: GGUFValueType.BOOL, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32, str: GGUFValueType.STRING}
    if type(value) is int and value >= 1 << 32:  # a parent's number of parameters
        kinds[int] = GGUFValueType.UINT64
    writer.add_key_value(key, value, kinds.get(type(value), GGUFValueType.ARRAY))


def _types(found: Mapping[str, Place], formats: Formats) -> Fields:
    """The file's type, which is for show: the format that most of its bytes are in; and the version of the block formats."""
    from gguf import GGML_QUANT_VERSION, LlamaFileType

    totals: dict[str, int] = {}
    for name, place in found.items():
        block_format = formats.get(name, PLAIN)
        totals[block_format.name] = totals.get(block_format.name, 0) + num_bytes(block_format, place.shape)
    most = max(totals, key=lambda name: totals[name])
    mostly = next((kind for kind in LlamaFileType if kind.name.startswith(f"MOSTLY_{most}")), LlamaFileType.ALL_F32)
    return {"general.file_type": int(mostly), "general.quantization_version": GGML_QUANT_VERSION}


def _announce(writer: GGUFWriter, name: str, shape: tuple[int, ...], block_format: BlockFormat) -> int:
    """Add a tensor's name, shape and type to the header; returns its bytes."""
    from gguf import GGMLQuantizationType

    size = num_bytes(block_format, shape)
    writer.add_tensor_info(name, shape, np.dtype(np.float32), size, GGMLQuantizationType[block_format.name])
    return size


def _header(writer: GGUFWriter) -> bytes:
    from gguf.gguf_writer import WriterState

    buffer = io.BytesIO()
    writer.fout, writer.state = [buffer], WriterState.EMPTY  # as open_output_file leaves it, without a file
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.write_padding(buffer, buffer.tell())
    return buffer.getvalue()
