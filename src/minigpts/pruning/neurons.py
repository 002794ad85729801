"""From the profile's statistics and a threshold to the MLP neurons each layer keeps, and the config that says so."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minigpts.model.spec import ArchitectureSpec
from minigpts.profiling.statistics import Statistics
from minigpts.pruning.allocation import keep_highest, removals, rounded_widths, widths_with_sum
from minigpts.pruning.criteria import CRITERIA, LayerEvidence, comparable
from minigpts.pruning.params import Allocation, Criterion

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from minigpts.model.weights import Shapes


@dataclass(frozen=True)
class NeuronScores:
    """What is known of every neuron of every layer of the parent. I = the layer's intermediate size."""

    scores: list[Tensor]  # the criterion's, (I,)
    comparable: list[Tensor]  # the same on one scale for all layers, (I,)
    mean_abs: list[Tensor]  # m_j of Eq. 1, (I,)


def scores(
    weights: Mapping[str, Tensor],
    spec: ArchitectureSpec,
    statistics: Statistics[Tensor],
    criterion: Criterion,
    seed: int,
) -> NeuronScores:
    """Score every neuron, with one layer's weights in memory at a time; a model whose layers have experts instead has none.

    Raises UserError for criterion taylor where the profile took no gradients.
    """
    if not spec.mlp_out:
        none = [torch.empty(0, dtype=torch.float64)] * statistics.num_layers
        return NeuronScores(none, none, none)
    found = [CRITERIA[criterion](layer) for layer in _evidence(weights, spec, statistics, seed)]
    return NeuronScores(found, comparable(criterion, found), statistics.mean_abs_by_layer())


def _evidence(
    weights: Mapping[str, Tensor], spec: ArchitectureSpec, statistics: Statistics[Tensor], seed: int
) -> Iterator[LayerEvidence]:
    generator = torch.Generator().manual_seed(seed)
    for index in range(statistics.num_layers):
        weight_out = _as_linear(weights, spec, spec.layer(index, spec.mlp_out))

        def weights_in(index: int = index) -> list[Tensor]:
            made = [_as_linear(weights, spec, spec.layer(index, module)) for module in spec.mlp_in]
            return [block for weight in made for block in weight.chunk(spec.mlp_in_blocks)]

        yield LayerEvidence(statistics, index, weights_in, weight_out, generator)


def _as_linear(weights: Mapping[str, Tensor], spec: ArchitectureSpec, module: str) -> Tensor:
    """A layer's weight, (out_features, in_features)."""
    weight = weights[f"{module}.weight"]
    return weight.T if spec.transposed else weight


def parameters_per_neuron(shapes: Shapes, spec: ArchitectureSpec) -> int:
    """Numbers that go with one MLP neuron: what makes it, biases included, and what reads it."""
    module = spec.layer(0, spec.mlp_out)
    width = shapes[f"{module}.weight"][spec.input_axis]
    makers = [spec.layer(0, maker) for maker in spec.mlp_in]
    names = [f"{module}.weight", *(f"{maker}.{kind}" for maker in makers for kind in ("weight", "bias"))]
    return sum(math.prod(shapes[name]) for name in names if name in shapes) // width


def kept_by_threshold(
    found: NeuronScores,
    kept_layers: Sequence[int],
    *,
    threshold: float,
    allocation: Allocation,
    multiple_of: int,
    silenced: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """The sorted indices of the neurons that each of ``kept_layers`` keeps, where those at or below ``threshold`` are the budget.

    ``silenced`` marks neurons (bool (I,) per layer of the parent) to remove besides.
    """
    if not any(map(len, found.scores)):
        return [torch.empty(0, dtype=torch.int64)] * len(kept_layers)
    known = (found.scores, found.comparable, found.mean_abs)
    ranking, alike, quiet = ([values[index] for index in kept_layers] for values in known)
    sizes = [len(layer) for layer in ranking]
    if silenced is not None:
        masks = [silenced[index] for index in kept_layers]
        ranking, alike, quiet = (
            [layer.masked_fill(mask, -math.inf) for layer, mask in zip(values, masks, strict=True)]
            for values in (ranking, alike, quiet)
        )
    removed = removals(alike, quiet, threshold, None, allocation)
    return keep_highest(ranking, rounded_widths(sizes, removed, multiple_of, kept_layers))


def widths_of_sum(
    found: NeuronScores, kept_layers: Sequence[int], num_kept: int, *, allocation: Allocation, multiple_of: int
) -> list[int]:
    """Widths of ``kept_layers`` that hold ``num_kept`` neurons between them: all of theirs, or a multiple of ``multiple_of``."""
    sizes = [len(found.scores[index]) for index in kept_layers]
    if num_kept == sum(sizes):
        return sizes
    alike, quiet = ([values[index] for index in kept_layers] for values in (found.comparable, found.mean_abs))
    removed = removals(alike, quiet, 0.0, sum(sizes) - num_kept, allocation)
    return widths_with_sum(sizes, removed, num_kept, multiple_of)


def set_widths(config: PreTrainedConfig, spec: ArchitectureSpec, widths: Sequence[int]) -> None:
    """Write the MLP widths into the config: one number where all layers agree (stock classes load that), else a list."""
    if not spec.mlp_out:
        return
    setattr(config, spec.width_field, max(widths))
    if len(set(widths)) > 1:
        config.intermediate_sizes = list(widths)
    elif hasattr(config, "intermediate_sizes"):
        del config.intermediate_sizes
