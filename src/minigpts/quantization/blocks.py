"""Codes and scales of a weight's blocks: what they stand for, and the bytes that a GGUF file stores them as.

The layouts are llama.cpp's (ggml-common.h). Scales and minima are half precision; in a format of parts they are that of the block,
and each part has a small whole multiple of them. Codes lie in planes: of a run of bytes, the first codes have the low bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from minigpts.quantization.formats import BlockFormat, PackedWeight

Bytes = np.ndarray  # uint8 (out_features, blocks, bytes)


@dataclass(frozen=True)
class Blocks:
    """A rounded weight (out_features, in_features). What a format doesn't have is None: minima, or multiples where a block is
    one part."""

    block_format: BlockFormat
    codes: Tensor  # uint8 (out_features, in_features): places in the format's levels
    scales: Tensor  # float16 (out_features, in_features / block)
    minima: Tensor | None = None  # float16, as the scales; what is added, or in a format of parts taken off
    scale_steps: Tensor | None = None  # int16 (out_features, in_features / part): multiples of the scale
    minimum_steps: Tensor | None = None  # int16, as the scales': multiples of the minimum

    def values(self) -> Tensor:
        """What the blocks stand for, float32 (out_features, in_features), as llama.cpp computes it."""
        levels = torch.tensor(self.block_format.levels, dtype=torch.float32, device=self.codes.device)
        grouped = levels[self.codes.long()].unflatten(1, (-1, self.block_format.sharing))
        values = grouped * self._of_parts(self.scales, self.scale_steps)[..., None]
        if self.minima is not None:
            minima = self._of_parts(self.minima, self.minimum_steps)[..., None]
            values = values + minima if self.minimum_steps is None else values - minima
        return values.flatten(1)

    def _of_parts(self, halves: Tensor, steps: Tensor | None) -> Tensor:
        """Scales or minima of the parts, float32."""
        if steps is None:
            return halves.float()
        return halves.float().repeat_interleave(self.block_format.block // self.block_format.sharing, 1) * steps

    def tensors(self) -> dict[str, Tensor]:
        """All of it but the format, by the fields' names."""
        found = {field.name: getattr(self, field.name) for field in fields(self)[1:]}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def scaled(self, factors: Tensor) -> Blocks:
        """The same codes under scales and minima that are ``factors`` (out_features, in_features / block) times as large."""
        minima = None if self.minima is None else (self.minima.float() * factors).half()
        return replace(self, scales=(self.scales.float() * factors).half(), minima=minima)

    def split(self, lengths: Sequence[int]) -> list[Blocks]:
        """Weights that were rounded as one, of so many rows each."""
        parts = {name: tensor.split(list(lengths)) for name, tensor in self.tensors().items()}
        return [Blocks(self.block_format, **{name: part[place] for name, part in parts.items()}) for place in range(len(lengths))]

    def packed(self) -> PackedWeight:
        """The bytes that a GGUF file stores."""
        rows, columns = self.codes.shape
        numpy = {name: tensor.cpu().numpy() for name, tensor in self.tensors().items()}
        by_block = {name: array.reshape(rows, columns // self.block_format.block, -1) for name, array in numpy.items()}
        parts = [np.ascontiguousarray(part).view(np.uint8) for part in _LAYOUTS[self.block_format.name](by_block)]
        return PackedWeight(self.block_format, (rows, columns), np.concatenate(parts, axis=-1).reshape(rows, -1))


Arrays = Mapping[str, np.ndarray]  # the fields of Blocks, (out_features, blocks, numbers in a block)


def _planes(codes: np.ndarray, bits: int, run: int) -> Bytes:
    """The lowest ``bits`` of the codes, in runs of ``run`` bytes: the first ``run`` codes in the low bits, and so on."""
    shaped = (codes & ((1 << bits) - 1)).reshape(*codes.shape[:-1], -1, 8 // bits, run)
    shifted = shaped.astype(np.uint8) << (bits * np.arange(8 // bits, dtype=np.uint8))[:, None]
    return np.bitwise_or.reduce(shifted, axis=-2).reshape(*codes.shape[:-1], -1)


def _fifth_bits(codes: np.ndarray) -> Bytes:
    """The fifth bits of 32 codes, in order."""
    return np.packbits(codes >> 4, axis=-1, bitorder="little")


def _six_bits(scales: np.ndarray, minima: np.ndarray) -> Bytes:
    """Eight scales and eight minima of six bits in twelve bytes: the last four of each are parted, four bits and two."""
    scales, minima = scales.astype(np.uint8), minima.astype(np.uint8)
    first, second = scales[..., :4] | scales[..., 4:] >> 4 << 6, minima[..., :4] | minima[..., 4:] >> 4 << 6
    return np.concatenate([first, second, scales[..., 4:] & 15 | (minima[..., 4:] & 15) << 4], axis=-1)


def _q3_k_scales(steps: np.ndarray) -> Bytes:
    """Sixteen scales of six bits in twelve bytes: the low four bits, then the upper two."""
    scales = (steps + 32).astype(np.uint8)
    return np.concatenate([_planes(scales, 4, 8), _planes(scales >> 4, 2, 4)], axis=-1)


def _iq4_xs_scales(steps: np.ndarray) -> Bytes:
    """Eight scales of six bits in six bytes: the upper two bits, then the low four."""
    scales = (steps + 32).astype(np.uint8)
    return np.concatenate([_planes(scales >> 4, 2, 1), _planes(scales, 4, 1)], axis=-1)


_LAYOUTS: Mapping[str, Callable[[Arrays], list[np.ndarray]]] = {
    "Q8_0": lambda a: [a["scales"], (a["codes"].astype(np.int16) - 127).astype(np.int8)],
    "Q5_1": lambda a: [a["scales"], a["minima"], _fifth_bits(a["codes"]), _planes(a["codes"], 4, 16)],
    "Q5_0": lambda a: [a["scales"], _fifth_bits(a["codes"]), _planes(a["codes"], 4, 16)],
    "Q4_1": lambda a: [a["scales"], a["minima"], _planes(a["codes"], 4, 16)],
    "Q4_0": lambda a: [a["scales"], _planes(a["codes"], 4, 16)],
    "IQ4_NL": lambda a: [a["scales"], _planes(a["codes"], 4, 16)],
    "IQ4_XS": lambda a: [a["scales"], _iq4_xs_scales(a["scale_steps"]), _planes(a["codes"], 4, 16)],
    "Q6_K": lambda a: [
        _planes(a["codes"], 4, 64), _planes(a["codes"] >> 4, 2, 32), a["scale_steps"].astype(np.int8), a["scales"],
    ],
    "Q5_K": lambda a: [
        a["scales"], a["minima"], _six_bits(a["scale_steps"], a["minimum_steps"]),
        _planes(a["codes"] >> 4, 1, 32), _planes(a["codes"], 4, 32),
    ],
    "Q4_K": lambda a: [
        a["scales"], a["minima"], _six_bits(a["scale_steps"], a["minimum_steps"]), _planes(a["codes"], 4, 32),
    ],
    "Q3_K": lambda a: [
        _planes(a["codes"] >> 2, 1, 32), _planes(a["codes"], 2, 32), _q3_k_scales(a["scale_steps"]), a["scales"],
    ],
    "Q2_K": lambda a: [
        (a["scale_steps"] | a["minimum_steps"] << 4).astype(np.uint8), _planes(a["codes"], 2, 32), a["scales"], a["minima"],
    ],
}  # fmt: skip
