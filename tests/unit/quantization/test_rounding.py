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
from minigpts.quantization.layerwise import add_square, mirror
from minigpts.quantization.rounding import SLAB, Cost, Grid, candidates, rounded

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


def by_the_paper(weight: Tensor, block_format: formats.BlockFormat, gram: Tensor) -> Tensor:
    """GPTQ with the inverse's Cholesky factor, in fp64, one column and one row after the other; scales as in the code."""
    grid, size = Grid(block_format, weight.device), block_format.block
    factor = torch.linalg.cholesky(torch.linalg.inv(gram.double()), upper=True)
    values = torch.empty_like(weight)
    for row, found in zip(weight.double(), values, strict=True):
        left = row.clone()
        for start in range(0, len(row), size):
            tried = []
            for scale in candidates(left[start : start + size, None].float(), grid, False)[0].half().double().flatten():
                trial, price = left.clone(), 0.0
                for column in range(start, start + size):
                    level = grid.levels[(grid.levels * scale - trial[column]).abs().argmin()] * scale
                    error = (trial[column] - level) / factor[column, column]
                    trial[column:] -= error * factor[column, column:]
                    trial[column], price = level, price + float(error.square())
                tried.append((price, trial))
            left = min(tried, key=lambda each: each[0])[1]
        found.copy_(left)
    return values


def test_slabs_give_what_one_column_after_the_other_gives():
    """The paper's rule, although no inverse is made and columns behind a slab wait for their update."""
    generator = torch.Generator().manual_seed(0)
    size = SLAB + 64
    inputs = torch.randn(4 * size, size, generator=generator) @ torch.randn(size, size, generator=generator)
    weight, gram = torch.randn(3, size, generator=generator) * 0.1, torch.zeros(size, size)
    add_square(gram, inputs)
    mirror(gram)
    gram.diagonal().mul_(1.5)
    expected = by_the_paper(weight, formats.FORMATS["Q4_0"], gram)
    found = rounded(weight, formats.FORMATS["Q4_0"], Cost(gram), sweeps=0).values()
    assert (found - expected).abs().gt(1e-4).float().mean() < 0.02  # a tie within the last bits of fp32 may fall either way
    assert cost(weight, found, gram) == pytest.approx(cost(weight, expected, gram), rel=1e-2)


def test_a_cost_knows_what_lowers_it_most():
    """Half a symmetric product is made, mirrored, and solved for: the least squares of all inputs."""
    generator = torch.Generator().manual_seed(0)
    inputs, gram = torch.randn(2000, 700, generator=generator), torch.zeros(700, 700)
    add_square(gram, inputs)
    mirror(gram)
    torch.testing.assert_close(gram, inputs.T @ inputs, rtol=1e-4, atol=1e-2)
    weight = torch.randn(5, 700, generator=generator)
    torch.testing.assert_close(Cost(gram).solve(weight @ gram), weight, rtol=1e-3, atol=1e-3)


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
