"""Which neurons matter: pure functions from a layer's statistics and weights to a score per MLP neuron.

A higher score means more important. Scores of one layer compare with one another; :func:`standardize` makes layers compare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LayerEvidence:
    """What a criterion may look at for one layer. I = intermediate_size, H = hidden_size."""

    count: int  # calibration tokens
    abs_sum: Tensor  # Σ|a|, (I,)
    sum: Tensor  # Σa, (I,)
    square_sum: Tensor  # Σa², (I,)
    weights_in: Sequence[Tensor]  # rows are neurons, each (I, H)
    weight_out: Tensor  # columns are neurons, (H, I)
    generator: torch.Generator


def mean_abs(evidence: LayerEvidence) -> Tensor:
    """m_j = (1/n) Σ_t |a_j,t|, the normalized L1 norm of the paper's Eq. 1 (arXiv 2312.12682). (I,)"""
    return evidence.abs_sum / evidence.count


def wanda(evidence: LayerEvidence) -> Tensor:
    """‖W_out[:, j]‖₂ · rms(a_j): Wanda's |weight| × input norm (arXiv 2306.11695), summed over the neuron's column. (I,)"""
    return evidence.weight_out.double().norm(dim=0) * (evidence.square_sum / evidence.count).sqrt()


def flap(evidence: LayerEvidence) -> Tensor:
    """Var(a_j) · ‖W_out[:, j]‖₂²: FLAP's fluctuation metric (arXiv 2312.11983): what a constant can't stand in for. (I,)"""
    mean = evidence.sum / evidence.count
    variance = (evidence.square_sum / evidence.count - mean.square()).clamp_min(0)
    return variance * evidence.weight_out.double().square().sum(0)


def magnitude(evidence: LayerEvidence) -> Tensor:
    """L2 norm of all the weights of the neuron, no data: the classic baseline (Han et al., arXiv 1506.02626). (I,)"""
    squares = evidence.weight_out.double().square().sum(0)
    return sum((weight.double().square().sum(1) for weight in evidence.weights_in), squares).sqrt()


def random(evidence: LayerEvidence) -> Tensor:
    """Uniform noise from the seeded generator: the floor every criterion has to beat. (I,)"""
    return torch.rand(evidence.abs_sum.shape, dtype=torch.float64, generator=evidence.generator)


CRITERIA: dict[str, Callable[[LayerEvidence], Tensor]] = {
    "l1": mean_abs,
    "wanda": wanda,
    "flap": flap,
    "magnitude": magnitude,
    "random": random,
}


def standardize(scores: Tensor) -> Tensor:
    """Zero mean, unit deviation within the layer, as FLAP does before it ranks all layers together. (I,)"""
    return (scores - scores.mean()) / scores.std(correction=0).clamp_min(torch.finfo(scores.dtype).tiny)
