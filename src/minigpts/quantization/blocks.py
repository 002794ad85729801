"""Codes and scales of a weight's blocks: what they stand for, and the bytes that a GGUF file stores them as.

The layouts are llama.cpp's (ggml-common.h): of a block of 32, a half-precision scale, where the format has one a half-precision
minimum, where codes have five bits the 32 fifth bits, and the codes' low four bits, the first 16 in the low halves of the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from minigpts.quantization.formats import BlockFormat, PackedWeight


@dataclass(frozen=True)
class Blocks:
    """A rounded weight (out_features, in_features). ``minima`` are None where the format has none."""

    block_format: BlockFormat
    codes: Tensor  # uint8 (out_features, in_features): places in the format's levels
    scales: Tensor  # float16 (out_features, in_features / block)
    minima: Tensor | None  # float16, as the scales

    def values(self) -> Tensor:
        """What the blocks stand for, float32 (out_features, in_features), as llama.cpp computes it."""
        levels = torch.tensor(self.block_format.levels, dtype=torch.float32, device=self.codes.device)
        grouped = levels[self.codes.long()].unflatten(1, (-1, self.block_format.block))
        values = grouped * self.scales.float()[..., None]
        if self.minima is not None:
            values = values + self.minima.float()[..., None]
        return values.flatten(1)

    def packed(self) -> PackedWeight:
        """The bytes that a GGUF file stores."""
        rows, columns = self.codes.shape
        codes = self.codes.cpu().numpy().reshape(rows, -1, self.block_format.block)
        parts = [_halves(self.scales)]
        if self.minima is not None:
            parts.append(_halves(self.minima))
        num_levels = len(self.block_format.levels)
        if num_levels > 32:
            parts.append((codes.astype(np.int16) + self.block_format.levels[0]).astype(np.int8).view(np.uint8))
        else:
            if num_levels > 16:
                parts.append(np.packbits(codes >> 4, axis=-1, bitorder="little"))
            low = codes & 15
            parts.append(low[..., :16] | (low[..., 16:] << 4))
        return PackedWeight(self.block_format, (rows, columns), np.concatenate(parts, axis=-1).reshape(rows, -1))


def _halves(values: Tensor) -> np.ndarray:
    """float16 (rows, blocks) as bytes (rows, blocks, 2)."""
    return np.ascontiguousarray(values.cpu().numpy()).view(np.uint8).reshape(*values.shape, 2)
