"""How many neurons to remove, and where: from scores and a budget to the neurons each layer keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from minigpts.errors import UserError
from minigpts.pruning.params import Allocation


def below_threshold(mean_abs: Sequence[Tensor], threshold: float) -> list[int]:
    """Per layer, the number of neurons with m_j ≤ ε (Eq. 1 of arXiv 2312.12682)."""
    return [int((layer <= threshold).sum()) for layer in mean_abs]


def threshold_for_budget(mean_abs: Sequence[Tensor], budget: int) -> float:
    """The ε at or below which ``budget`` neurons of all layers lie; below every neuron for a budget of 0."""
    pooled = torch.cat(list(mean_abs)).sort().values
    return float(pooled[budget - 1]) if budget else -1.0


def removals(
    scores: Sequence[Tensor], mean_abs: Sequence[Tensor], threshold: float, budget: int | None, allocation: Allocation
) -> list[float]:
    """How many neurons each layer should lose, before rounding.

    The budget is the number of neurons at or below ``threshold``, unless ``budget`` gives it outright.
    ``per_layer`` takes it where those neurons are, ``uniform`` takes the same share of every layer, ``adaptive`` takes the
    lowest of all layers' scores, which have to compare across layers.
    """
    if budget is not None:
        threshold = threshold_for_budget(mean_abs, budget)
    quiet = below_threshold(mean_abs, threshold)
    if allocation == "per_layer":
        return [float(count) for count in quiet]
    total = sum(quiet) if budget is None else budget
    if allocation == "uniform":
        share = total / sum(len(layer) for layer in scores)
        return [len(layer) * share for layer in scores]
    order = torch.cat(list(scores)).argsort(stable=True)[:total]
    owner = torch.repeat_interleave(torch.arange(len(scores)), torch.tensor([len(layer) for layer in scores]))
    return torch.bincount(owner[order], minlength=len(scores)).double().tolist()


def rounded_widths(
    sizes: Sequence[int], removed: Sequence[float], multiple_of: int, layers: Sequence[int] | None = None
) -> list[int]:
    """Kept widths, rounded to ``multiple_of``. ``layers`` are the layers' numbers, for messages, where they aren't 0, 1, 2, …

    A threshold is a limit on what may go, so they are rounded up. Raises UserError when a layer would be empty.
    """
    kept = []
    for index, size, gone in zip(layers or range(len(sizes)), sizes, removed, strict=True):
        exact = size - gone
        # Shares such as 0.1 are not exact in binary; without the slack 8.999999 would round to 8.
        width = min(size, math.ceil(exact / multiple_of - 1e-9) * multiple_of)
        if exact < 1:
            raise UserError(f"params.yaml: this cut would empty layer {index} ({size} neurons, {gone:.0f} to go); lower threshold")
        kept.append(width)
    return kept


def widths_with_sum(sizes: Sequence[int], removed: Sequence[float], num_kept: int, multiple_of: int) -> list[int]:
    """Kept widths whose sum is ``num_kept``, a multiple of ``multiple_of``: each a positive multiple of it and as near to
    ``size − removed`` as the sum allows (largest remainders; of equals the earlier layer keeps more)."""
    exact = [(size - gone) / multiple_of for size, gone in zip(sizes, removed, strict=True)]
    most = [size // multiple_of for size in sizes]
    units = [min(cap, max(1, math.floor(share + 1e-9))) for cap, share in zip(most, exact, strict=True)]
    while sum(units) != num_kept // multiple_of:
        step = 1 if sum(units) < num_kept // multiple_of else -1
        able = [index for index, unit in enumerate(units) if 1 <= unit + step <= most[index]]
        units[max(able, key=lambda index: step * (exact[index] - units[index]))] += step
    return [unit * multiple_of for unit in units]


def keep_highest(scores: Sequence[Tensor], kept: Sequence[int]) -> list[Tensor]:
    """Per layer, the sorted indices of the ``kept`` highest scores; of equals the lower index stays."""
    return [
        torch.argsort(layer, descending=True, stable=True)[:width].sort().values for layer, width in zip(scores, kept, strict=True)
    ]
