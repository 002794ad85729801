"""How many neurons go, and where: from scores and a budget to the neurons each layer keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from minigpts.errors import UserError
from minigpts.importance.criteria import standardize

Allocation = Literal["per_layer", "uniform", "adaptive"]


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
    lowest of all layers' standardized scores.
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
    normalized = [standardize(layer) for layer in scores]
    order = torch.cat(normalized).argsort(stable=True)[:total]
    owner = torch.repeat_interleave(torch.arange(len(scores)), torch.tensor([len(layer) for layer in scores]))
    return torch.bincount(owner[order], minlength=len(scores)).double().tolist()


def widths(
    sizes: Sequence[int], removed: Sequence[float], multiple_of: int, at_least: bool, layers: Sequence[int] | None = None
) -> list[int]:
    """Kept widths, rounded to ``multiple_of``. ``layers`` are the layers' numbers, for messages, where they aren't 0, 1, 2, …

    A target is a promise of what goes at least, so widths are rounded down (``at_least``); a threshold is a limit on what
    may go, so they are rounded up. A layer that loses nothing keeps its width. Raises UserError when a layer would be empty.
    """
    kept = []
    for index, size, gone in zip(layers or range(len(sizes)), sizes, removed, strict=True):
        exact = size - gone
        # Shares such as 0.1 are not exact in binary; without the slack 8.999999 would round to 8.
        rounded = math.floor(exact / multiple_of + 1e-9) if at_least else math.ceil(exact / multiple_of - 1e-9)
        width = size if gone == 0 else min(size, rounded * multiple_of)
        if exact < 1 or width < 1:
            raise UserError(
                f"params.yaml: this cut would empty layer {index} ({size} neurons, {gone:.0f} to go);"
                " lower threshold or prune_neurons.target_size_reduction, or use a smaller prune_neurons.multiple_of"
            )
        kept.append(width)
    return kept


def keep_highest(scores: Sequence[Tensor], kept: Sequence[int]) -> list[Tensor]:
    """Per layer, the sorted indices of the ``kept`` highest scores; of equals the lower index stays."""
    return [
        torch.argsort(layer, descending=True, stable=True)[:width].sort().values for layer, width in zip(scores, kept, strict=True)
    ]
