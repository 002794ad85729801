"""The block formats of GGUF files, as data: what a row of weights can be stored as, and how many bytes that takes.

A format cuts each row of a weight (out_features, in_features) into blocks, and stores a block as small integer codes with a
scale, some with a minimum besides. The formats of 256 weights (K-quants and IQ4_XS) cut a block again: each part has a scale of
its own, a whole multiple of the block's. A row whose length is no multiple of the block is stored in the format's fallback, which
is the one that llama.cpp takes, and at last in half precision. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minigpts.errors import UserError

IQ4_NL_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


UNFIT = "F16"  # what a row falls to at last that is no multiple of a block


@dataclass(frozen=True)
class BlockFormat:
    """How one block of a row is stored."""

    name: str  # llama.cpp's
    block: int  # weights
    num_bytes: int  # of a block
    levels: tuple[int, ...] = ()  # what a code stands for, before it is scaled; ascending. Empty: plain floating point
    has_minimum: bool = False  # a minimum is added; the levels begin at 0
    part: int = 0  # weights that share a scale; 0: all of the block
    steps: tuple[int, int] = (0, 0)  # the least and the greatest multiple of the block's scale (and minimum) that a part has
    fallback: str = UNFIT  # for a row that is no multiple of the block

    @property
    def sharing(self) -> int:
        """Weights that share a scale."""
        return self.part or self.block


_ALL = (
    BlockFormat("F32", 1, 4),
    BlockFormat("F16", 1, 2),
    BlockFormat("BF16", 1, 2),
    BlockFormat("Q8_0", 32, 34, tuple(range(-127, 128))),
    BlockFormat("Q6_K", 256, 210, tuple(range(-32, 32)), part=16, steps=(-128, 127), fallback="Q8_0"),
    BlockFormat("Q5_1", 32, 24, tuple(range(32)), has_minimum=True),
    BlockFormat("Q5_K", 256, 176, tuple(range(32)), has_minimum=True, part=32, steps=(0, 63), fallback="Q5_1"),
    BlockFormat("Q5_0", 32, 22, tuple(range(-16, 16))),
    BlockFormat("Q4_1", 32, 20, tuple(range(16)), has_minimum=True),
    BlockFormat("Q4_K", 256, 144, tuple(range(16)), has_minimum=True, part=32, steps=(0, 63), fallback="Q5_0"),
    BlockFormat("Q4_0", 32, 18, tuple(range(-8, 8))),
    BlockFormat("IQ4_NL", 32, 18, IQ4_NL_LEVELS),
    BlockFormat("IQ4_XS", 256, 136, IQ4_NL_LEVELS, part=32, steps=(-32, 31), fallback="IQ4_NL"),
    BlockFormat("Q3_K", 256, 110, tuple(range(-4, 4)), part=16, steps=(-32, 31), fallback="IQ4_NL"),
    BlockFormat("Q2_K", 256, 84, tuple(range(4)), has_minimum=True, part=16, steps=(0, 15), fallback="IQ4_NL"),
)
FORMATS = {block_format.name: block_format for block_format in _ALL}


def format_of(name: str) -> BlockFormat:
    """The format of that name. Raises UserError naming the known ones."""
    if name not in FORMATS:
        raise UserError(f"unknown weight format '{name}'; known: {', '.join(FORMATS)}")
    return FORMATS[name]


def with_fallbacks(name: str) -> tuple[BlockFormat, ...]:
    """The format ``name`` and what its rows fall to, one after the other; the last one takes every row."""
    wanted = format_of(name)
    return (wanted,) if wanted.block == 1 else (wanted, *with_fallbacks(wanted.fallback))


def fitting(name: str, row_length: int) -> BlockFormat:
    """The format ``name``, or the first of its fallbacks that a row of ``row_length`` weights can hold."""
    return next(found for found in with_fallbacks(name) if row_length % found.block == 0)


def num_bytes(block_format: BlockFormat, shape: Sequence[int]) -> int:
    """Bytes of a weight (out_features, in_features) in a format that fits its rows."""
    return int(np.prod(shape, dtype=np.int64)) // block_format.block * block_format.num_bytes


@dataclass(frozen=True)
class PackedWeight:
    """A weight as a GGUF file stores it: rows are output features, each in the format's blocks."""

    block_format: BlockFormat
    shape: tuple[int, int]  # (out_features, in_features)
    data: np.ndarray  # uint8 (out_features, bytes of a row)
