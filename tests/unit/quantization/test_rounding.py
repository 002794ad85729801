"""Rounding one weight: what the file holds, and what it costs the layer's outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from torch import Tensor

from minigpts.errors import UserError
from minigpts.quantization import formats
from minigpts.quantization.blocks import Blocks
from minigpts.quantization.rounding import rounded

ROUNDING = [name for name, block_format in formats.FORMATS.items() if block_format.levels]


def weight_and_gram(rows: int = 24, columns: int = 96) -> tuple[Tensor, Tensor]:
    """A weight, and Σ x xᵀ of inputs that hang together."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, columns, generator=generator) * 0.1
    inputs = torch.randn(400, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    return weight, inputs.T @ inputs + columns * torch.eye(columns)


def cost(weight: Tensor, values: Tensor, gram: Tensor) -> float:
    """What the layer's outputs change by, squared, over all inputs."""
    return float((((weight - values) @ gram) * (weight - values)).sum())


def by_peer(weight: Tensor, name: str) -> Tensor:
    """What the gguf package makes of it, to which all inputs are alike."""
    kind = GGMLQuantizationType[name]
    return torch.from_numpy(np.array(dequantize(quantize(weight.numpy(), kind), kind)))


@pytest.mark.parametrize("name", ROUNDING)
def test_a_file_holds_what_was_rounded(name: str):
    """gguf reads the packed bytes as the very values that the rounding counted with, a block of zeros included."""
    weight, gram = weight_and_gram()
    weight[3, 32:64] = 0
    blocks = rounded(weight, formats.FORMATS[name], gram)
    packed = blocks.packed()
    assert packed.data.nbytes == formats.num_bytes(packed.block_format, packed.shape)
    np.testing.assert_array_equal(dequantize(packed.data, GGMLQuantizationType[name]), blocks.values().numpy())


@pytest.mark.parametrize("name", ROUNDING)
def test_compensation_costs_less_than_rounding_each_weight_alone(name: str):
    """And where all inputs are alike, so that there is nothing to make up for, the search is still as good as gguf's rule."""
    weight, gram = weight_and_gram()
    block_format, alike = formats.FORMATS[name], torch.eye(weight.shape[1])
    alone, together = rounded(weight, block_format, alike).values(), rounded(weight, block_format, gram).values()
    assert cost(weight, together, gram) < 0.5 * cost(weight, alone, gram)
    if name != "IQ4_NL":  # which the gguf package doesn't write
        assert cost(weight, alone, alike) <= cost(weight, by_peer(weight, name), alike)


@pytest.mark.parametrize("name", [name for name in ROUNDING if not formats.FORMATS[name].has_minimum])
def test_what_is_rounded_already_stays(name: str):
    """So a model that was tuned with rounded weights is exported as it was tuned, also out of bfloat16."""
    weight, gram = weight_and_gram()
    once = rounded(weight, formats.FORMATS[name], gram, sweeps=0).values()
    torch.testing.assert_close(rounded(once, formats.FORMATS[name], gram, sweeps=0).values(), once, rtol=0, atol=0)
    again = rounded(once.bfloat16(), formats.FORMATS[name], gram, sweeps=0).values()
    assert (again - once).abs().max() <= once.abs().max() / 100  # a level of Q8_0, less than half of one of the others


def test_sweeps_lower_the_cost():
    """Improving codes and scales in turns finds a better rounding under the same cost."""
    weight, gram = weight_and_gram()
    costs = [cost(weight, rounded(weight, formats.FORMATS["Q4_0"], gram, sweeps=sweeps).values(), gram) for sweeps in (0, 1, 4)]
    assert costs[0] > costs[1] > costs[2]


def test_blocks_stand_for_scaled_levels():
    """The least file there is: one block, two codes that differ."""
    codes = torch.full((1, 32), 8, dtype=torch.uint8)
    codes[0, 5] = 15
    half = torch.tensor([[0.5]], dtype=torch.float16)
    values = Blocks(formats.FORMATS["IQ4_NL"], codes, half, None).values()
    assert values[0, 5] == 56.5 and values[0, 6] == 0.5


def test_a_row_that_is_no_multiple_of_a_block_falls_back():
    """576 takes blocks of 32, 40 takes none."""
    assert formats.fitting("Q4_0", 576).name == "Q4_0"
    assert formats.fitting("Q4_0", 40).name == "F16"
    assert formats.num_bytes(formats.FORMATS["IQ4_NL"], (10, 64)) == 10 * 2 * 18


def test_an_unknown_format_is_one_line():
    """It names what there is."""
    with pytest.raises(UserError, match=r"unknown weight format 'Q3_X'; known: F32, .*IQ4_NL"):
        formats.format_of("Q3_X")
