"""Rounds a weight to a block format so that what a linear layer gives on the domain's text changes least.

Columns are rounded in order, and what rounding one does to the layer's outputs is made up for in the columns that are not
rounded yet (GPTQ, arXiv 2210.17323). A block's scale is chosen when its first column is reached, from the weights as they are
by then: each of a few candidates is tried on the whole block, compensation included, and a row takes the one that costs it
least. Then single codes and scales are improved in turns while that lowers the very same cost.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from minigpts.quantization.blocks import Blocks
from minigpts.quantization.formats import BlockFormat

# What a block's largest weight is rounded to: the last levels of either end (those of at least this share of the last), or one
# beyond the end, in units of it, so that the largest is cut off to the good of the others.
LAST_LEVELS, MOST_LEVELS = 0.78, 4
BEYOND = (1.06, 1.13, 1.21, 1.3, 1.4)
ROWS = 512  # rounded at a time: the candidates of a block are held for all of them


class Grid:
    """A format's levels, the nearest of them to a number, and what a block's largest weight is tried as."""

    def __init__(self, block_format: BlockFormat, device: torch.device) -> None:
        """Of ``block_format``, for weights on ``device``."""
        self.levels = torch.tensor(block_format.levels, dtype=torch.float32, device=device)
        self.lowest, self.highest = float(self.levels[0]), float(self.levels[-1])
        self.even = len(self.levels) == self.highest - self.lowest + 1
        self.borders = (self.levels[1:] + self.levels[:-1]) / 2
        ends = []  # what a block's largest weight is tried as
        for end in (self.lowest, self.highest):
            near = self.levels[(self.levels / end >= LAST_LEVELS)]
            ends += [near[near.abs().argsort(descending=True)][:MOST_LEVELS], end * torch.tensor(BEYOND, device=device)]
        self.ends = torch.cat(ends)
        whole = torch.arange(self.lowest, self.highest + 1, device=device)
        self.table = self.levels[torch.bucketize(whole, self.borders)]  # of the nearest levels to whole numbers

    def codes(self, values: Tensor) -> Tensor:
        """The places of the nearest levels, int64."""
        if self.even:
            return (values.round().clamp_(self.lowest, self.highest) - self.lowest).long()
        return torch.bucketize(values, self.borders)

    def nearest(self, values: Tensor) -> Tensor:
        """The nearest levels themselves; where two are nearly as near (less than one apart), either."""
        whole = values.round().clamp_(self.lowest, self.highest)
        if self.even:
            return whole
        return self.table.index_select(0, whole.sub_(self.lowest).int().flatten()).view_as(values)


def candidates(block: Tensor, grid: Grid, has_minimum: bool) -> tuple[Tensor, Tensor]:
    """Scales and minima to try for each row of ``block`` (rows, weights that share a scale): (rows, candidates) each."""
    if has_minimum:
        shrinks = torch.tensor([1.0, *(1 / beyond for beyond in BEYOND)], device=block.device)
        low, high = block.amin(1, keepdim=True).clamp_max(0), block.amax(1, keepdim=True).clamp_min(0)
        pairs = torch.cartesian_prod(shrinks, shrinks)
        minima = low * pairs[:, 0]
        return (high * pairs[:, 1] - minima) / grid.highest, minima
    extreme = block.gather(1, block.abs().argmax(1, keepdim=True))
    scales = extreme / grid.ends
    return scales, torch.zeros_like(scales)


class Steps:
    """What scales and minima a row's present block can hold: half precision, or whole multiples of one that the block has."""

    def __init__(self, block_format: BlockFormat, grid: Grid) -> None:
        """Of a weight in ``block_format``, no block of which has begun."""
        self.block_format, self.grid = block_format, grid
        self.scale_units, self.minimum_units = list[Tensor](), list[Tensor]()  # (rows,) of each block begun

    def begin(self, block: Tensor, importance: Tensor) -> None:
        """Choose what the block's parts are to be multiples of, so that the largest of the best scales is the last multiple.

        ``block`` (rows, block) is as the weights are by now, ``importance`` (block,) what an error of each costs.
        """
        if not self.block_format.part:
            return
        parts = block.unflatten(1, (-1, self.block_format.part)).flatten(0, 1)
        scales, minima = candidates(parts, self.grid, self.block_format.has_minimum)
        inverse = torch.where(scales == 0, 0.0, 1 / scales.where(scales != 0, 1.0))
        weights = importance.view(-1, 1, self.block_format.part).repeat(len(block), 1, 1)
        costs = []
        for scale, minimum, factor in zip(scales.T, minima.T, inverse.T, strict=True):
            nearest = self.grid.nearest((parts - minimum[:, None]) * factor[:, None]) * scale[:, None] + minimum[:, None]
            costs.append(((nearest - parts).square() * weights[:, 0]).sum(1))
        best = torch.stack(costs, 1).argmin(1, keepdim=True)
        lowest, highest = self.block_format.steps
        chosen = scales.gather(1, best).view(len(block), -1)
        extreme = chosen.gather(1, chosen.abs().argmax(1, keepdim=True))[:, 0]
        self.scale_units.append((extreme / (lowest or highest)).half().float())
        deepest = minima.gather(1, best).view(len(block), -1).amin(1)
        self.minimum_units.append((deepest / highest).half().float())

    def scales(self, wanted: Tensor, block: int) -> Tensor:
        """The nearest scales to ``wanted`` (rows, …) that block number ``block`` can hold."""
        return self._held(wanted, self.scale_units, block)

    def minima(self, wanted: Tensor, block: int) -> Tensor:
        """The nearest minima to ``wanted`` (rows, …)."""
        return self._held(wanted, self.minimum_units, block)

    def _held(self, wanted: Tensor, units: list[Tensor], block: int) -> Tensor:
        if not self.block_format.part:
            return wanted.half().float()
        unit = units[block].view(-1, *[1] * (wanted.dim() - 1))
        steps = torch.where(unit == 0, 0.0, wanted / unit.where(unit != 0, 1.0)).round()
        return steps.clamp(*self.block_format.steps) * unit


@torch.no_grad()
def rounded(weight: Tensor, block_format: BlockFormat, gram: Tensor, sweeps: int = 4) -> Blocks:
    """``weight`` (out, in) in ``block_format``, for inputs x with Σ x xᵀ = ``gram`` (in, in), positive definite.

    It keeps tr((Ŵ − W) gram (Ŵ − W)ᵀ) small. Both are float32 on one device; ``sweeps`` are the improvements' rounds.
    """
    grid = Grid(block_format, weight.device)
    factor = torch.linalg.cholesky(gram.double())
    upper = torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True).float()  # of the inverse
    parts = []
    for rows in weight.float().split(ROWS):
        steps = Steps(block_format, grid)
        values, scales, minima = _compensated(rows, block_format, grid, upper, steps)
        values, scales, minima = _improved(rows, values, scales, minima, gram, block_format, grid, steps, sweeps)
        parts.append(_blocks(values, scales, minima, grid, steps).tensors())
    return Blocks(block_format, **{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def _blocks(values: Tensor, scales: Tensor, minima: Tensor, grid: Grid, steps: Steps) -> Blocks:
    """Rounded values (rows, in) as codes, with their scales and minima (rows, in / weights that share them)."""
    block_format = steps.block_format
    spread, offset = (numbers.repeat_interleave(block_format.sharing, 1) for numbers in (scales, minima))
    codes = grid.codes(torch.where(spread == 0, 0.0, (values - offset) / spread.where(spread != 0, 1.0))).to(torch.uint8)
    if not block_format.part:
        return Blocks(block_format, codes, scales.half(), minima.half() if block_format.has_minimum else None)
    units = [torch.stack(each, 1) for each in (steps.scale_units, steps.minimum_units)]
    multiples = []
    for numbers, unit in zip((scales, minima), units, strict=True):
        of_parts = unit.repeat_interleave(block_format.block // block_format.part, 1)
        multiples.append(torch.where(of_parts == 0, 0.0, numbers / of_parts.where(of_parts != 0, 1.0)).round().short())
    if not block_format.has_minimum:
        return Blocks(block_format, codes, units[0].half(), None, multiples[0])
    return Blocks(block_format, codes, units[0].half(), -units[1].half(), *multiples)  # what the file holds is taken off


def _compensated(
    weight: Tensor, block_format: BlockFormat, grid: Grid, upper: Tensor, steps: Steps
) -> tuple[Tensor, Tensor, Tensor]:
    """The rounded values (rows, in), and the scales and minima (rows, in / weights that share them)."""
    left, size, whole = weight.clone(), block_format.sharing, block_format.block
    values = torch.empty_like(weight)
    all_scales, all_minima = [], []
    for start in range(0, weight.shape[1], size):
        block, inner = left[:, start : start + size], upper[start : start + size, start : start + size]
        if start % whole == 0:
            steps.begin(left[:, start : start + whole], upper.diagonal()[start : start + whole].square().reciprocal())
        scales, minima = candidates(block, grid, block_format.has_minimum)
        scales, minima = steps.scales(scales, start // whole), steps.minima(minima, start // whole)
        rows, tried = scales.shape
        trial = block[:, None].expand(rows, tried, size).reshape(-1, size).T.contiguous()  # (block, rows · candidates)
        scale, minimum = scales.flatten(), minima.flatten()
        inverse = torch.where(scale == 0, 0.0, 1 / torch.where(scale == 0, 1.0, scale))
        errors, cost = torch.empty_like(trial), torch.zeros_like(scale)
        found = torch.empty_like(trial)
        for column in range(size):
            value = trial[column]
            found[column] = grid.nearest((value - minimum) * inverse) * scale + minimum
            error = (value - found[column]) / inner[column, column]
            errors[column] = error
            cost += error.square()
            if column + 1 < size:
                trial[column + 1 :].addr_(inner[column, column + 1 :], error, alpha=-1)
        best = cost.view(rows, tried).argmin(1) + torch.arange(rows, device=weight.device) * tried
        values[:, start : start + size] = found[:, best].T
        all_scales.append(scale[best])
        all_minima.append(minimum[best])
        left[:, start + size :] -= errors[:, best].T @ upper[start : start + size, start + size :]
    return values, torch.stack(all_scales, 1), torch.stack(all_minima, 1)


def _moved(number: Tensor, direction: Tensor, slope: Tensor, inner: Tensor, held: Callable[[Tensor], Tensor]) -> Tensor:
    """``number`` (rows,), which values change with by ``direction`` (rows, weights) times as much, where it lowers the cost.

    It moves to what can be ``held`` nearest to the lowest cost; ``slope`` is −½ the cost's gradient, ``inner`` half its Hessian.
    """
    along, curvature = (direction * slope).sum(1), ((direction @ inner) * direction).sum(1)
    new = held(number + torch.where(curvature > 0, along / curvature.clamp_min(1e-30), 0.0))
    change = new - number
    gain = 2 * change * along - change.square() * curvature
    return torch.where((gain > 0) & new.isfinite(), new, number)


def _improved(
    weight: Tensor,
    values: Tensor,
    scales: Tensor,
    minima: Tensor,
    gram: Tensor,
    block_format: BlockFormat,
    grid: Grid,
    steps: Steps,
    sweeps: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rounded values, scales and minima of lower cost: part after part, first the scale and the minimum and then each code take the
    value that is best while all the others are as they are."""
    size = block_format.sharing
    values, scales, minima = values.clone(), scales.clone(), minima.clone()
    slope = (weight - values) @ gram  # (rows, in): −½ the cost's gradient
    for _ in range(sweeps):
        for number, start in enumerate(range(0, weight.shape[1], size)):
            where = slice(start, start + size)
            inner = gram[where, where]
            before = values[:, where].clone()
            scale, minimum = scales[:, number], minima[:, number]
            unit = torch.where(scale[:, None] == 0, 0.0, (before - minimum[:, None]) / scale.where(scale != 0, 1.0)[:, None])
            new = _moved(scale, unit, slope[:, where], inner, partial(steps.scales, block=start // block_format.block))
            scales[:, number] = new
            current = unit * new[:, None] + minimum[:, None]
            local = slope[:, where] - (current - before) @ inner
            if block_format.has_minimum:
                held = partial(steps.minima, block=start // block_format.block)
                moved = _moved(minimum, torch.ones_like(unit), local, inner, held)
                current += (moved - minimum)[:, None]
                local -= (moved - minimum)[:, None] * inner.sum(0)
                minima[:, number] = minimum = moved
            inverse = torch.where(new == 0, 0.0, 1 / new.where(new != 0, 1.0))
            for column in range(size):
                wanted = current[:, column] + local[:, column] / inner[column, column]
                found = grid.nearest((wanted - minimum) * inverse) * new + minimum
                delta = found - current[:, column]
                current[:, column] = found
                local -= delta[:, None] * inner[column]
            values[:, where] = current
            slope -= (current - before) @ gram[where]
    return values, scales, minima
