"""Which units matter: pure functions from statistics and weights to a score per MLP neuron, head or layer.

A higher score means more important. Scores of one layer compare with one another; :func:`standardize` makes layers compare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK_ROWS = 32  # of a weight, squared at a time


@dataclass(frozen=True)
class LayerEvidence:
    """What a criterion may look at for one layer. I = intermediate_size, H = hidden_size."""

    count: int  # calibration tokens
    abs_sum: Tensor  # Σ|a|, (I,)
    sum: Tensor  # Σa, (I,)
    square_sum: Tensor  # Σa², (I,)
    weights_in: Callable[[], Sequence[Tensor]]  # rows are neurons, each (I, H); read from disk by those that look
    weight_out: Tensor  # columns are neurons, (H, I)
    generator: torch.Generator


def mean_abs(evidence: LayerEvidence) -> Tensor:
    """m_j = (1/n) Σ_t |a_j,t|, the normalized L1 norm of the paper's Eq. 1 (arXiv 2312.12682). (I,)"""
    return evidence.abs_sum / evidence.count


def wanda(evidence: LayerEvidence) -> Tensor:
    """‖W_out[:, j]‖₂ · rms(a_j): Wanda's |weight| × input norm (arXiv 2306.11695), summed over the neuron's column. (I,)"""
    return square_sums(evidence.weight_out, 0).sqrt() * (evidence.square_sum / evidence.count).sqrt()


def flap(evidence: LayerEvidence) -> Tensor:
    """Var(a_j) · ‖W_out[:, j]‖₂²: FLAP's fluctuation metric (arXiv 2312.11983): what a constant can't stand in for. (I,)"""
    mean = evidence.sum / evidence.count
    variance = (evidence.square_sum / evidence.count - mean.square()).clamp_min(0)
    return variance * square_sums(evidence.weight_out, 0)


def magnitude(evidence: LayerEvidence) -> Tensor:
    """L2 norm of all the weights of the neuron, no data: the classic baseline (Han et al., arXiv 1506.02626). (I,)"""
    squares = square_sums(evidence.weight_out, 0)
    return sum((square_sums(weight, 1) for weight in evidence.weights_in()), squares).sqrt()


def random(evidence: LayerEvidence) -> Tensor:
    """Uniform noise from the seeded generator: the floor every criterion has to beat. (I,)"""
    return torch.rand(evidence.abs_sum.shape, dtype=torch.float64, generator=evidence.generator)


def square_sums(weight: Tensor, dim: int) -> Tensor:
    """Σw² of a matrix along ``dim``, float64."""
    if dim == 1:
        return weight.float().square().sum(1, dtype=torch.float64)
    # As the profile's recorder does it: element by element into accumulators that stay in the cache, reduced once.
    buffer, sums = torch.empty(BLOCK_ROWS, weight.shape[1]), torch.zeros(BLOCK_ROWS, weight.shape[1])
    for block in weight.split(BLOCK_ROWS):
        values = buffer[: len(block)].copy_(block)
        sums[: len(block)].addcmul_(values, values)
    return sums.sum(0, dtype=torch.float64)


CRITERIA: dict[str, Callable[[LayerEvidence], Tensor]] = {
    "l1": mean_abs,
    "wanda": wanda,
    "flap": flap,
    "magnitude": magnitude,
    "random": random,
}


def group_output(square_sum: Tensor, count: int, weight_out: Tensor, num_groups: int) -> Tensor:
    """√Σ_h ‖W_out[:, h]‖²_F · E‖o_h‖² over the query heads h of a group: Wanda's product for whole heads. (num_groups,)

    ``square_sum`` Σ‖o_h‖² (num_heads,); ``weight_out`` (H, num_heads · head_dim) is the attention's output projection.
    """
    squares = square_sums(weight_out, 0).view(len(square_sum), -1).sum(1)
    return (squares * square_sum / count).view(num_groups, -1).sum(1).sqrt()


def block_influence(cosine_sum: Tensor, count: int) -> Tensor:
    """1 − E cos(hidden state into the layer, out of it): ShortGPT's block influence (arXiv 2403.03853). (num_layers,)"""
    return 1 - cosine_sum / count


def standardize(scores: Tensor) -> Tensor:
    """Zero mean, unit deviation within the layer, as FLAP does before it ranks all layers together. (I,)"""
    return (scores - scores.mean()) / scores.std(correction=0).clamp_min(torch.finfo(scores.dtype).tiny)
