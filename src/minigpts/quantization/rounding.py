"""Rounds a weight to a block format so that what a linear layer gives on the domain's text changes least.

Columns are rounded in order, and what rounding one does to the layer's outputs is made up for in the columns that are not
rounded yet (GPTQ, arXiv 2210.17323). A block's scale is chosen when its first column is reached, from the weights as they are
by then: each of a few candidates is tried on the whole block, compensation included, and a row takes the one that costs it
least. Then single codes and scales are improved in turns while that lowers the very same cost.
"""

from __future__ import annotations

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
    """Scales and minima to try for each row of ``block`` (rows, block): (rows, candidates) each, as half precision holds them."""
    if has_minimum:
        shrinks = torch.tensor([1.0, *(1 / beyond for beyond in BEYOND)], device=block.device)
        low, high = block.amin(1, keepdim=True).clamp_max(0), block.amax(1, keepdim=True).clamp_min(0)
        pairs = torch.cartesian_prod(shrinks, shrinks)
        minima = low * pairs[:, 0]
        scales = (high * pairs[:, 1] - minima) / grid.highest
    else:
        extreme = block.gather(1, block.abs().argmax(1, keepdim=True))
        scales = extreme / grid.ends
        minima = torch.zeros_like(scales)
    return scales.half().float(), minima.half().float()


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
        values, scales, minima = _compensated(rows, block_format, grid, upper)
        values, scales, minima = _improved(rows, values, scales, minima, gram, block_format, grid, sweeps)
        parts.append((values, scales, minima))
    values, scales, minima = (torch.cat(part) for part in zip(*parts, strict=True))
    spread = scales.repeat_interleave(block_format.block, 1)
    offset = minima.repeat_interleave(block_format.block, 1)
    codes = grid.codes(torch.where(spread == 0, 0.0, (values - offset) / torch.where(spread == 0, 1.0, spread)))
    return Blocks(block_format, codes.to(torch.uint8), scales.half(), minima.half() if block_format.has_minimum else None)


def _compensated(weight: Tensor, block_format: BlockFormat, grid: Grid, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rounded values (rows, in), and the scales and minima (rows, blocks)."""
    left, size = weight.clone(), block_format.block
    values = torch.empty_like(weight)
    all_scales, all_minima = [], []
    for start in range(0, weight.shape[1], size):
        block, inner = left[:, start : start + size], upper[start : start + size, start : start + size]
        scales, minima = candidates(block, grid, block_format.has_minimum)
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


def _improved(
    weight: Tensor,
    values: Tensor,
    scales: Tensor,
    minima: Tensor,
    gram: Tensor,
    block_format: BlockFormat,
    grid: Grid,
    sweeps: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rounded values, scales and minima of lower cost: block after block, first the scale and then each code takes the value that
    is best while all the others are as they are."""
    size = block_format.block
    values, scales, minima = values.clone(), scales.clone(), minima.clone()
    slope = (weight - values) @ gram  # (rows, in): −½ the cost's gradient
    for _ in range(sweeps):
        for number, start in enumerate(range(0, weight.shape[1], size)):
            where = slice(start, start + size)
            inner = gram[where, where]
            before = values[:, where].clone()
            scale, minimum = scales[:, number], minima[:, number]
            unit = torch.where(scale[:, None] == 0, 0.0, (before - minimum[:, None]) / scale.where(scale != 0, 1.0)[:, None])
            # The best change of the scale: s += (u · slope) / (u gram u).
            bent = unit @ inner
            curvature = (bent * unit).sum(1)
            step = (unit * slope[:, where]).sum(1) / curvature.clamp_min(1e-30)
            new = (scale + torch.where(curvature > 0, step, 0.0)).half().float()
            change = new - scale
            gain = 2 * change * (unit * slope[:, where]).sum(1) - change.square() * curvature
            new = torch.where((gain > 0) & new.isfinite(), new, scale)
            scales[:, number] = new
            current = unit * new[:, None] + minimum[:, None]
            local = slope[:, where] - (current - before) @ inner
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
