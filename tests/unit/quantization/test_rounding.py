"""Rounding one weight: what the file holds, and what it costs the layer's outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor

from benchmarks.llamacpp import library
from minigpts.errors import UserError
from minigpts.quantization import formats
from minigpts.quantization.blocks import Blocks
from minigpts.quantization.rounding import Cost, rounded

ROUNDING = [name for name, block_format in formats.FORMATS.items() if block_format.levels]


def weight_and_gram(name: str, rows: int = 24) -> tuple[Tensor, Tensor]:
    """A weight of several blocks of the format ``name``, and Σ x xᵀ of inputs that hang together."""
    columns = max(96, 2 * formats.FORMATS[name].block)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, columns, generator=generator) * 0.1
    inputs = torch.randn(4 * columns, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    return weight, inputs.T @ inputs + columns * torch.eye(columns)


def cost(weight: Tensor, values: Tensor, gram: Tensor) -> float:
    """What the layer's outputs change by, squared, over all inputs."""
    return float((((weight - values) @ gram) * (weight - values)).sum())


def by_llamacpp(weight: Tensor, name: str, gram: Tensor) -> Tensor:
    """What llama.cpp makes of it, with the importance of each input."""
    return torch.from_numpy(library.rounded(weight.numpy(), name, gram.diagonal().numpy()))


@pytest.mark.parametrize("name", ROUNDING)
def test_a_file_holds_what_was_rounded(name: str):
    """gguf reads the packed bytes as the very values that the rounding counted with, a block of zeros included."""
    weight, gram = weight_and_gram(name)
    weight[3, 32:64] = 0
    weight[4] = 0
    blocks = rounded(weight, formats.FORMATS[name], Cost(gram))
    packed = blocks.packed()
    assert packed.data.nbytes == formats.num_bytes(packed.block_format, packed.shape)
    np.testing.assert_array_equal(dequantize(packed.data, GGMLQuantizationType[name]), blocks.values().numpy())


@pytest.mark.parametrize("name", ROUNDING)
def test_compensation_costs_half_of_what_llamacpp_costs(name: str):
    """And where all inputs are alike, so that there is nothing to make up for, the search is about as good as llama.cpp's rule."""
    weight, gram = weight_and_gram(name)
    alike = torch.eye(weight.shape[1])
    ratios = [
        cost(weight, rounded(weight, formats.FORMATS[name], Cost(inputs)).values(), inputs)
        / cost(weight, by_llamacpp(weight, name, inputs), inputs)
        for inputs in (gram, alike)
    ]
    assert ratios[0] < 0.5 and ratios[1] < (1.12 if formats.FORMATS[name].has_minimum else 1)


@pytest.mark.parametrize("name", ["Q8_0", "Q5_0", "Q4_0", "IQ4_NL"])
def test_what_is_rounded_already_stays(name: str):
    """So a parent that comes out of a file of rounded weights can go back into one, also out of bfloat16."""
    weight, gram = weight_and_gram(name)
    once = rounded(weight, formats.FORMATS[name], Cost(gram), sweeps=0).values()
    torch.testing.assert_close(rounded(once, formats.FORMATS[name], Cost(gram), sweeps=0).values(), once, rtol=0, atol=0)
    again = rounded(once.bfloat16(), formats.FORMATS[name], Cost(gram), sweeps=0).values()
    assert (again - once).abs().max() <= once.abs().max() / 100  # a level of Q8_0, less than half of one of the others


def test_sweeps_lower_the_cost():
    """Improving codes and scales in turns finds a better rounding under the same cost."""
    weight, gram = weight_and_gram("Q4_0")
    costs = [
        cost(weight, rounded(weight, formats.FORMATS["Q4_0"], Cost(gram), sweeps=sweeps).values(), gram) for sweeps in (0, 1, 4)
    ]
    assert costs[0] > costs[1] > costs[2]


def test_blocks_stand_for_scaled_levels():
    """The least file there is: one block, two codes that differ."""
    codes = torch.full((1, 32), 8, dtype=torch.uint8)
    codes[0, 5] = 15
    half = torch.tensor([[0.5]], dtype=torch.float16)
    values = Blocks(formats.FORMATS["IQ4_NL"], codes, half, None).values()
    assert values[0, 5] == 56.5 and values[0, 6] == 0.5


def test_a_row_that_is_no_multiple_of_a_block_falls_back():
    """576 takes blocks of 32, 40 takes none; a K-quant falls to the type that llama.cpp takes."""
    assert formats.fitting("Q4_0", 576).name == "Q4_0"
    assert formats.fitting("Q4_0", 40).name == "F16"
    names = ("Q6_K", "Q5_K", "Q4_K", "IQ4_XS", "Q3_K", "Q2_K")
    assert [formats.fitting(name, 576).name for name in names] == ["Q8_0", "Q5_1", "Q5_0", "IQ4_NL", "IQ4_NL", "IQ4_NL"]
    assert {formats.fitting(name, 40).name for name in names} == {"F16"} and formats.fitting("Q4_K", 768).name == "Q4_K"
    assert formats.num_bytes(formats.FORMATS["IQ4_NL"], (10, 64)) == 10 * 2 * 18


def test_an_unknown_format_is_one_line():
    """It names what there is."""
    with pytest.raises(UserError, match=r"unknown weight format 'Q3_X'; known: F32, .*IQ4_NL"):
        formats.format_of("Q3_X")
