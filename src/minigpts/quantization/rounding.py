"""Rounds a weight to a block format so that what a linear layer gives on the domain's text changes least.

Columns are rounded in order, and what rounding one does to the layer's outputs is made up for in the columns that are not
rounded yet (GPTQ, arXiv 2210.17323). A block's scale is chosen when its first column is reached, from the weights as they are
by then: each of a few candidates is tried on the whole block, compensation included, and a row takes the one that costs it
least. Then single codes and scales are improved in turns while that lowers the very same cost.

In here weights are transposed, (in, rows), so that a step works on one column of all rows as one run of memory. What all other
columns do to a slab of them is one matrix product, made when the slab is reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from minigpts.quantization.blocks import Blocks
from minigpts.quantization.formats import BlockFormat

# What a block's largest weight is rounded to: the last levels of either end (those of at least this share of the last), or one
# beyond the end, in units of it, so that the largest is cut off to the good of the others.
LAST_LEVELS, MOST_LEVELS = 0.78, 4
BEYOND = (1.06, 1.13, 1.21, 1.3, 1.4)
ROWS = 2048  # rounded at a time: the candidates of a block are held for all of them
SLAB = 256  # columns, a multiple of every format's block


class Cost:
    """What changing a weight by E (out, in) costs: tr(E gram Eᵀ), the change of the outputs, squared, over all inputs."""

    def __init__(self, gram: Tensor) -> None:
        """``gram`` (in, in), float32: Σ x xᵀ over the inputs x, positive definite."""
        self.gram = gram
        self.upper = torch.linalg.cholesky(gram.flip(0, 1)).flip(0, 1)  # gram = upper upperᵀ, so the cost is ‖E upper‖²

    def solve(self, right: Tensor) -> Tensor:
        """The X (out, in) of X gram = ``right``."""
        half = torch.linalg.solve_triangular(self.upper.T, right, upper=False, left=False)
        return torch.linalg.solve_triangular(self.upper, half, upper=True, left=False)


class Grid:
    """A format's levels, the nearest of them to a number, and what a block's largest weight is tried as."""

    def __init__(self, block_format: BlockFormat, device: torch.device) -> None:
        """Of ``block_format``, for weights on ``device``."""
        self.levels = torch.tensor(block_format.levels, dtype=torch.float32, device=device)
        self.lowest, self.highest = float(self.levels[0]), float(self.levels[-1])
        self.even = len(self.levels) == self.highest - self.lowest + 1
        ends = []  # what a block's largest weight is tried as
        for end in (self.lowest, self.highest):
            near = self.levels[(self.levels / end >= LAST_LEVELS)]
            ends += [near[near.abs().argsort(descending=True)][:MOST_LEVELS], end * torch.tensor(BEYOND, device=device)]
        self.ends = torch.cat(ends)
        whole = torch.arange(self.lowest, self.highest + 1, device=device)
        self.places = torch.bucketize(whole, (self.levels[1:] + self.levels[:-1]) / 2)  # of the nearest levels to whole numbers
        self.table = self.levels[self.places]

    def codes(self, levels: Tensor) -> Tensor:
        """The places of ``levels``, which are so but for the last bits of a float: uint8."""
        whole = (levels - self.lowest).round_().clamp_(0, self.highest - self.lowest)
        return self.places.to(torch.uint8).index_select(0, whole.int().flatten()).view_as(whole)

    def nearest(self, values: Tensor, scale: Tensor, inverse: Tensor, minimum: Tensor | None) -> Tensor:
        """The nearest to ``values`` that a block can hold; where two are nearly as near (less than a level of one apart), either.

        ``inverse`` is the scale's; a ``minimum`` of None is 0.
        """
        whole = (values if minimum is None else values - minimum) * inverse
        whole.round_().clamp_(self.lowest, self.highest)
        if not self.even:
            whole = self.table.index_select(0, whole.sub_(self.lowest).int().flatten()).view_as(whole)
        return whole.mul_(scale) if minimum is None else torch.addcmul(minimum, whole, scale)


def candidates(block: Tensor, grid: Grid, has_minimum: bool) -> tuple[Tensor, Tensor | None]:
    """Scales and minima to try for each row of ``block`` (…, weights that share a scale, rows): (…, candidates, rows) each."""
    if has_minimum:
        shrinks = torch.tensor([1.0, *(1 / beyond for beyond in BEYOND)], device=block.device)
        low, high = block.amin(-2, keepdim=True).clamp_max(0), block.amax(-2, keepdim=True).clamp_min(0)
        pairs = torch.cartesian_prod(shrinks, shrinks)
        minima = low * pairs[:, :1]
        return (high * pairs[:, 1:] - minima) / grid.highest, minima
    return block.gather(-2, block.abs().argmax(-2, keepdim=True)) / grid.ends[:, None], None


class Steps:
    """What scales and minima a row's present block can hold: half precision, or whole multiples of one that the block has."""

    def __init__(self, block_format: BlockFormat, grid: Grid) -> None:
        """Of a weight in ``block_format``, no block of which has begun."""
        self.block_format, self.grid = block_format, grid
        self.scale_units, self.minimum_units = list[Tensor](), list[Tensor]()  # (rows,) of each block begun

    def begin(self, block: Tensor, importance: Tensor) -> None:
        """Choose what the block's parts are to be multiples of, so that the largest of the best scales is the last multiple.

        ``block`` (block, rows) is as the weights are by now, ``importance`` (block,) what an error of each costs.
        """
        if not self.block_format.part:
            return
        parts = block.unflatten(0, (-1, self.block_format.part))
        weights = importance.view(-1, self.block_format.part, 1)
        scales, minima = candidates(parts, self.grid, self.block_format.has_minimum)
        costs = []
        for tried in range(scales.shape[1]):
            scale, minimum = scales[:, tried, None], None if minima is None else minima[:, tried, None]
            nearest = self.grid.nearest(parts, scale, _inverse(scale), minimum)
            costs.append(((nearest - parts).square() * weights).sum(1))
        best = torch.stack(costs, 1).argmin(1, keepdim=True)  # (parts, 1, rows)
        lowest, highest = self.block_format.steps
        chosen = scales.gather(1, best)[:, 0]
        extreme = chosen.gather(0, chosen.abs().argmax(0, keepdim=True))[0]
        self.scale_units.append((extreme / (lowest or highest)).half().float())
        if minima is not None:
            self.minimum_units.append((minima.gather(1, best)[:, 0].amin(0) / highest).half().float())

    def scales(self, wanted: Tensor, block: int) -> Tensor:
        """The nearest scales to ``wanted`` (…, rows) that block number ``block`` can hold."""
        return self._held(wanted, self.scale_units, block)

    def minima(self, wanted: Tensor, block: int) -> Tensor:
        """The nearest minima to ``wanted`` (…, rows)."""
        return self._held(wanted, self.minimum_units, block)

    def _held(self, wanted: Tensor, units: list[Tensor], block: int) -> Tensor:
        if not self.block_format.part:
            return wanted.half().float()
        return (wanted * _inverse(units[block])).round().clamp(*self.block_format.steps) * units[block]

    def multiples(self, numbers: Tensor, units: list[Tensor]) -> Tensor:
        """``numbers`` (parts, rows), scales or minima, in multiples of their blocks' ``units``: int16."""
        of_parts = torch.stack(units).repeat_interleave(self.block_format.block // self.block_format.part, 0)
        return (numbers * _inverse(of_parts)).round().short()


@torch.no_grad()
def rounded(weight: Tensor, block_format: BlockFormat, cost: Cost, sweeps: int = 4) -> Blocks:
    """``weight`` (out, in) in ``block_format``, so that the change costs little. ``sweeps`` are the improvements' rounds."""
    grid, parts = Grid(block_format, weight.device), []
    for rows in weight.split(ROWS):
        steps = Steps(block_format, grid)
        columns = rows.T.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        values, scales, minima = _compensated(columns, cost.upper, steps)
        _improve(columns, values, scales, minima, cost.gram, steps, sweeps)
        parts.append(_coded(values, scales, minima, steps))
    return Blocks(block_format, **{name: torch.cat([part[name] for part in parts], 1).T.contiguous() for name in parts[0]})


def _inverse(numbers: Tensor) -> Tensor:
    """0 for 0, so that a block of zeros is rounded to zeros."""
    return torch.where(numbers == 0, 0.0, numbers.reciprocal())


def _coded(values: Tensor, scales: Tensor, minima: Tensor | None, steps: Steps) -> dict[str, Tensor]:
    """Rounded values (in, rows), their scales and minima (in / weights that share them, rows), as the fields of Blocks."""
    sharing = steps.block_format.sharing
    offset = values if minima is None else values - minima.repeat_interleave(sharing, 0)
    found = {"codes": steps.grid.codes(offset * _inverse(scales).repeat_interleave(sharing, 0))}
    if not steps.block_format.part:
        return found | {"scales": scales.half()} | ({} if minima is None else {"minima": minima.half()})
    found |= {"scales": torch.stack(steps.scale_units).half(), "scale_steps": steps.multiples(scales, steps.scale_units)}
    if minima is None:
        return found
    units = torch.stack(steps.minimum_units)  # what the file holds is taken off
    return found | {"minima": -units.half(), "minimum_steps": steps.multiples(minima, steps.minimum_units)}


def _compensated(left: Tensor, upper: Tensor, steps: Steps) -> tuple[Tensor, Tensor, Tensor | None]:
    """The rounded values (in, rows), and the scales and minima (in / weights that share them, rows).

    In the place of the weights ``left`` (in, rows) their errors are left.
    """
    values = torch.empty_like(left)
    found: list[tuple[Tensor, Tensor | None]] = []
    for start in range(0, len(left), SLAB):
        slab = slice(start, start + SLAB)
        inner = upper[slab, slab]
        inverse = torch.linalg.solve_triangular(inner, torch.eye(len(inner), device=left.device), upper=True)
        wanted = left[slab] + inverse.T @ (upper[:start, slab].T @ left[:start])
        found += _compensated_slab(wanted, values[slab], inner, inverse, steps, start // steps.block_format.block)
        left[slab] -= values[slab]
    minima = [minimum for _, minimum in found if minimum is not None]
    return values, torch.stack([scale for scale, _ in found]), torch.stack(minima) if minima else None


def _compensated_slab(
    left: Tensor, values: Tensor, upper: Tensor, inverse: Tensor, steps: Steps, number: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Fill in the slab's ``values`` (slab, rows); scales and minima (rows,) of each of its parts.

    ``left`` is what makes up for all earlier slabs, ``number`` that of the slab's first block; ``inverse`` is that of ``upper``.
    """
    whole, size = steps.block_format.block, steps.block_format.sharing
    for start in range(0, len(left), size):
        part, block = slice(start, start + size), number + start // whole
        if start % whole == 0:
            steps.begin(left[start : start + whole], upper.diagonal()[start : start + whole].square())
        scales, minima = candidates(left[part], steps.grid, steps.block_format.has_minimum)
        scales, minima = steps.scales(scales, block), None if minima is None else steps.minima(minima, block)
        best, values[part] = _best_candidate(left[part], steps.grid, scales, minima, upper[part, part], inverse[part, part])
        left[start + size :] -= (upper[part, part] @ inverse[part, start + size :]).T @ (left[part] - values[part])
        yield scales.gather(0, best)[0], None if minima is None else minima.gather(0, best)[0]


def _best_candidate(
    left: Tensor, grid: Grid, scales: Tensor, minima: Tensor | None, upper: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor]:
    """Which of the ``scales`` and ``minima`` (candidates, rows) costs each row least, (1, rows), and the values it gives."""
    tried, rows = scales.shape
    scale, minimum = scales.flatten(), None if minima is None else minima.flatten()
    factor = _inverse(scale)
    trial = left[:, None].expand(-1, tried, -1).reshape(-1, tried * rows)
    found, cost = torch.empty_like(trial), torch.zeros_like(scale)
    squares, feedback = upper.diagonal().square().tolist(), inverse * upper.diagonal()[:, None]
    for column, value in enumerate(trial):
        found[column] = grid.nearest(value, scale, factor, minimum)
        error = value - found[column]
        cost.addcmul_(error, error, value=squares[column])
        trial[column + 1 :].addr_(feedback[column, column + 1 :], error, alpha=-1)
    best = cost.view(tried, rows).argmin(0, keepdim=True)
    return best, found.view(-1, tried, rows).gather(1, best.expand(len(left), 1, -1))[:, 0]


def _moved(number: Tensor, direction: Tensor, slope: Tensor, inner: Tensor, held: Callable[[Tensor], Tensor]) -> Tensor:
    """``number`` (rows,), which values change with by ``direction`` (weights, rows) times as much, where it lowers the cost.

    It moves to what can be ``held`` nearest to the lowest cost; ``slope`` is −½ the cost's gradient, ``inner`` half its Hessian.
    """
    along, curvature = (direction * slope).sum(0), ((inner @ direction) * direction).sum(0)
    new = held(number + torch.where(curvature > 0, along / curvature.clamp_min(1e-30), 0.0))
    change = new - number
    gain = 2 * change * along - change.square() * curvature
    return torch.where((gain > 0) & new.isfinite(), new, number)


def _improve(
    errors: Tensor, values: Tensor, scales: Tensor, minima: Tensor | None, gram: Tensor, steps: Steps, sweeps: int
) -> None:
    """Lower the cost of rounded values (in, rows), of their scales and of their minima, all in place, and their ``errors`` with
    them: part after part, first the scale and the minimum and then each code take the value that is best while all the others are
    as they are."""
    size = steps.block_format.sharing
    for start in [start for _ in range(sweeps) for start in range(0, len(values), SLAB)]:
        slab = slice(start, start + SLAB)
        slope = gram[slab] @ errors  # −½ the cost's gradient
        for first in range(0, len(slope), size):
            part = slice(start + first, start + first + size)
            number = part.start // size
            before = values[part].clone()
            minimum = None if minima is None else minima[number]
            block = part.start // steps.block_format.block
            _improve_part(values[part], scales[number], minimum, slope[first : first + size], gram[part, part], steps, block)
            change = values[part] - before
            errors[part] -= change
            slope[first + size :].addmm_(gram[start + first + size : start + len(slope), part], change, alpha=-1)


def _improve_part(
    values: Tensor, scale: Tensor, minimum: Tensor | None, slope: Tensor, gram: Tensor, steps: Steps, block: int
) -> None:
    """Values (weights, rows) that share a ``scale`` and ``minimum`` (rows,), all in place; they are of block number ``block``."""
    unit = (values if minimum is None else values - minimum) * _inverse(scale)
    new = _moved(scale, unit, slope, gram, partial(steps.scales, block=block))
    change = unit * (new - scale)
    scale.copy_(new)
    if minimum is not None:
        moved = _moved(minimum, torch.ones_like(unit), slope - gram @ change, gram, partial(steps.minima, block=block))
        change += moved - minimum
        minimum.copy_(moved)
    values += change
    slope -= gram @ change
    factor, inverses = _inverse(scale), gram.diagonal().reciprocal().tolist()
    for column, current in enumerate(values):
        found = steps.grid.nearest(current.add(slope[column], alpha=inverses[column]), scale, factor, minimum)
        slope[column + 1 :].addr_(gram[column, column + 1 :], found - current, alpha=-1)
        current.copy_(found)
