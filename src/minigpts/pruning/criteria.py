"""Which units matter: pure functions from statistics and weights to a score per MLP neuron, head or layer.

A higher score means more important. Scores of one layer compare with one another; :func:`comparable` makes layers compare.
Each docstring names the source and the score's unit; r stands for the unit of the residual stream that layers write to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minigpts.errors import UserError
from minigpts.profiling.statistics import Statistics
from minigpts.pruning.params import Criterion

BLOCK_ROWS = 32  # of a weight, squared at a time


@dataclass(frozen=True)
class LayerEvidence:
    """What a criterion may look at for one layer. I = intermediate_size, H = hidden_size."""

    statistics: Statistics[Tensor]  # of all layers
    index: int  # of the layer
    weights_in: Callable[[], Sequence[Tensor]]  # rows are neurons, each (I, H); read from disk by those that look
    weight_out: Tensor  # columns are neurons, (H, I)
    generator: torch.Generator


def mean_abs(evidence: LayerEvidence) -> Tensor:
    """m_j = (1/n) Σ_t |a_j,t|, the normalized L1 norm of the paper's Eq. 1 (arXiv 2312.12682). (I,)

    Unit: the activation's.
    """
    return evidence.statistics.mean_abs(evidence.index)


def wanda(evidence: LayerEvidence) -> Tensor:
    """‖W_out[:, j]‖₂ · rms(a_j): Wanda's |weight| × input norm (arXiv 2306.11695), summed over the neuron's column. (I,)

    Unit: r, the root mean square of what the neuron adds.
    """
    return square_sums(evidence.weight_out, 0).sqrt() * evidence.statistics.mean_square(evidence.index).sqrt()


def flap(evidence: LayerEvidence) -> Tensor:
    """Var(a_j) · ‖W_out[:, j]‖₂²: FLAP's fluctuation metric (arXiv 2312.11983): what a constant can't stand in for. (I,)

    Unit: r².
    """
    mean, mean_square = evidence.statistics.mean(evidence.index), evidence.statistics.mean_square(evidence.index)
    variance = (mean_square - mean.square()).clamp_min(0)
    return variance * square_sums(evidence.weight_out, 0)


def taylor(evidence: LayerEvidence) -> Tensor:
    """E (∂L/∂a_j · a_j)² over the tokens: first-order Taylor importance (Molchanov et al., arXiv 1906.10771). (I,)

    Unit: nats², of the change in the loss when the neuron falls silent at one token. Raises UserError where the profile took
    no gradients.
    """
    return from_gradients(evidence.statistics.taylor(evidence.index))


def magnitude(evidence: LayerEvidence) -> Tensor:
    """L2 norm of all the weights of the neuron, no data: the classic baseline (Han et al., arXiv 1506.02626). (I,)

    Unit: the weights'.
    """
    squares = square_sums(evidence.weight_out, 0)
    return sum((square_sums(weight, 1) for weight in evidence.weights_in()), squares).sqrt()


def random(evidence: LayerEvidence) -> Tensor:
    """Uniform noise in [0, 1) from the seeded generator: the floor every criterion has to beat. (I,)

    Unit: none. Source: the design's own control.
    """
    return torch.rand(evidence.weight_out.shape[1], dtype=torch.float64, generator=evidence.generator)


def from_gradients(values: Tensor | None) -> Tensor:
    """What criterion taylor reads of the statistics. Raises UserError where the profile took no gradients."""
    if values is None:
        raise UserError("params.yaml: prune_neurons.criterion taylor needs profile.gradient_tokens > 0")
    return values


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


CRITERIA: dict[Criterion, Callable[[LayerEvidence], Tensor]] = {
    "l1": mean_abs,
    "wanda": wanda,
    "flap": flap,
    "taylor": taylor,
    "magnitude": magnitude,
    "random": random,
}

# These measure the loss itself, so a score means the same in every layer.
COMPARABLE: frozenset[Criterion] = frozenset({"taylor"})


def comparable(criterion: Criterion, scores: Sequence[Tensor]) -> list[Tensor]:
    """The layers' scores, (I,) each, on one scale, to rank neurons of all layers together."""
    return list(scores) if criterion in COMPARABLE else [standardize(layer) for layer in scores]


def group_output(square_sum: Tensor, count: int, weight_out: Tensor, num_groups: int) -> Tensor:
    """√Σ_h ‖W_out[:, h]‖²_F · E‖o_h‖² over the query heads h of a group: Wanda's product for whole heads. (num_groups,)

    ``square_sum`` Σ‖o_h‖² (num_heads,); ``weight_out`` (H, num_heads · head_dim) is the attention's output projection.
    Source: Wanda (arXiv 2306.11695). Unit: r.
    """
    squares = square_sums(weight_out, 0).view(len(square_sum), -1).sum(1)
    return (squares * square_sum / count).view(num_groups, -1).sum(1).sqrt()


def group_taylor(taylor_sum: Tensor, count: int, num_groups: int) -> Tensor:
    """Σ_h E (Σ_c ∂L/∂o_c · o_c)² over the query heads h of a group, c a head's channels. (num_groups,)

    ``taylor_sum`` (num_heads,). Source: arXiv 1906.10771, as :func:`taylor`. Unit: nats².
    """
    return taylor_sum.view(num_groups, -1).sum(1) / count


def standardize(scores: Tensor) -> Tensor:
    """Zero mean, unit deviation within the layer, as FLAP (arXiv 2312.11983) does before it ranks layers together. (I,)"""
    return (scores - scores.mean()) / scores.std(correction=0).clamp_min(torch.finfo(scores.dtype).tiny)
