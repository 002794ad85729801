"""Rounds a weight into a block format, each number to the nearest its block can hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from minigpts.errors import UserError
from minigpts.quantization.formats import BlockFormat, PackedWeight, num_bytes

if TYPE_CHECKING:
    import torch


def packed(weight: torch.Tensor, block_format: BlockFormat) -> PackedWeight:
    """``weight`` (out_features, in_features) in ``block_format``, which must fit its rows.

    Raises UserError for a format that the gguf package doesn't round to (IQ4_NL).
    """
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    numbers = np.ascontiguousarray(weight.float().numpy())
    try:
        data = quantize(numbers, GGMLQuantizationType[block_format.name])
    except NotImplementedError:
        raise UserError(f"params.yaml: export: nothing here rounds to {block_format.name} yet; take another format") from None
    rows = data.view(np.uint8).reshape(len(numbers), -1)
    assert rows.nbytes == num_bytes(block_format, numbers.shape)
    return PackedWeight(block_format, (numbers.shape[0], numbers.shape[1]), rows)
