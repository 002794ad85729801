"""The block formats of GGUF files, as data: what a row of weights can be stored as, and how many bytes that takes.

A format cuts each row of a weight (out_features, in_features) into blocks, and stores a block as small integer codes with a
scale, some with a minimum besides. A row whose length is no multiple of the block is stored in half precision. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minigpts.errors import UserError

IQ4_NL_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True)
class BlockFormat:
    """How one block of a row is stored."""

    name: str  # llama.cpp's
    block: int  # weights
    num_bytes: int  # of a block
    levels: tuple[int, ...] = ()  # what a code stands for, before it is scaled; ascending. Empty: plain floating point
    has_minimum: bool = False  # a block's minimum is added; its levels begin at 0


_ALL = (
    BlockFormat("F32", 1, 4),
    BlockFormat("F16", 1, 2),
    BlockFormat("BF16", 1, 2),
    BlockFormat("Q8_0", 32, 34, tuple(range(-127, 128))),
    BlockFormat("Q5_1", 32, 24, tuple(range(32)), has_minimum=True),
    BlockFormat("Q5_0", 32, 22, tuple(range(-16, 16))),
    BlockFormat("Q4_1", 32, 20, tuple(range(16)), has_minimum=True),
    BlockFormat("Q4_0", 32, 18, tuple(range(-8, 8))),
    BlockFormat("IQ4_NL", 32, 18, IQ4_NL_LEVELS),
)
FORMATS = {block_format.name: block_format for block_format in _ALL}
UNFIT = "F16"  # what a row falls to that is no multiple of a block


def format_of(name: str) -> BlockFormat:
    """The format of that name. Raises UserError naming the known ones."""
    if name not in FORMATS:
        raise UserError(f"unknown weight format '{name}'; known: {', '.join(FORMATS)}")
    return FORMATS[name]


def fitting(name: str, row_length: int) -> BlockFormat:
    """The format ``name``, or what a row of ``row_length`` weights falls to because it is no multiple of its block."""
    wanted = format_of(name)
    return wanted if row_length % wanted.block == 0 else FORMATS[UNFIT]


def num_bytes(block_format: BlockFormat, shape: Sequence[int]) -> int:
    """Bytes of a weight (out_features, in_features) in a format that fits its rows."""
    return int(np.prod(shape, dtype=np.int64)) // block_format.block * block_format.num_bytes


@dataclass(frozen=True)
class PackedWeight:
    """A weight as a GGUF file stores it: rows are output features, each in the format's blocks."""

    block_format: BlockFormat
    shape: tuple[int, int]  # (out_features, in_features)
    data: np.ndarray  # uint8 (out_features, bytes of a row)
