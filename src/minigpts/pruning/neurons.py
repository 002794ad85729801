"""From the profile's statistics and a threshold to the MLP neurons each layer keeps, and the config that says so."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from minigpts.architectures.spec import ArchitectureSpec
from minigpts.errors import UserError
from minigpts.importance.criteria import CRITERIA, LayerEvidence, mean_abs
from minigpts.pruning import plan

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Criterion = Literal["l1", "wanda", "flap", "magnitude", "random"]


@dataclass(frozen=True)
class NeuronCut:
    """What goes, layer by layer. I = the layer's intermediate size."""

    kept: list[Tensor]  # sorted neuron indices, int64
    scores: list[Tensor]  # the criterion's, (I,)
    mean_abs: list[Tensor]  # m_j of Eq. 1, (I,)
    num_below_threshold: int  # neurons with m_j ≤ ε; the budget unless a target sets it


def evidence(
    weights: Mapping[str, Tensor], spec: ArchitectureSpec, statistics: Mapping[str, Tensor], num_layers: int, seed: int
) -> list[LayerEvidence]:
    """What the criteria look at, per layer. Raises UserError when the statistics are of another model."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for index in range(num_layers):
        weight_out = weights[f"{spec.layer(index, spec.mlp_out)}.weight"]
        abs_sum, signed_sum, square_sum = (statistics.get(f"layers.{index}.mlp.{key}") for key in ("abs_sum", "sum", "square_sum"))
        if abs_sum is None or signed_sum is None or square_sum is None or len(abs_sum) != weight_out.shape[1]:
            raise UserError(f"the activation statistics don't fit layer {index} of this model; run profile_activations again")
        weights_in = [weights[f"{spec.layer(index, module)}.weight"] for module in spec.mlp_in]
        found.append(LayerEvidence(int(statistics["count"]), abs_sum, signed_sum, square_sum, weights_in, weight_out, generator))
    return found


def budget_for(target_size_reduction: float, weights: Mapping[str, Tensor], spec: ArchitectureSpec, num_layers: int) -> int:
    """The least number of neurons whose parameters are ``target_size_reduction`` of the model's. Raises UserError when the
    MLPs don't hold that many."""
    widths = [weights[f"{spec.layer(index, spec.mlp_out)}.weight"].shape[1] for index in range(num_layers)]
    made_by = [weights.get(f"{spec.layer(0, module)}.{kind}") for module in spec.mlp_in for kind in ("weight", "bias")]
    read_by = weights[f"{spec.layer(0, spec.mlp_out)}.weight"]
    per_neuron = len(read_by) + sum(tensor[0].numel() for tensor in made_by if tensor is not None)
    total = sum(tensor.numel() for tensor in weights.values())
    budget = math.ceil(target_size_reduction * total / per_neuron)
    if budget >= sum(widths):
        raise UserError(
            f"params.yaml: prune_neurons.target_size_reduction {target_size_reduction} is more than the MLPs hold"
            f" ({sum(widths) * per_neuron / total:.3f} of the parameters)"
        )
    return budget


def plan_cut(
    layers: Sequence[LayerEvidence],
    *,
    criterion: Criterion,
    threshold: float,
    allocation: plan.Allocation,
    multiple_of: int,
    budget: int | None = None,
    silenced: Sequence[Tensor] | None = None,
) -> NeuronCut:
    """Score every neuron, decide how many each layer loses, and keep the highest.

    ``silenced`` marks neurons (bool (I,) per layer) that go besides those at or below ``threshold``.
    """
    scores = [CRITERIA[criterion](layer) for layer in layers]
    means = [mean_abs(layer) for layer in layers]
    num_below = sum(plan.below_threshold(means, threshold))
    ranking, quiet = scores, means
    if silenced is not None:
        ranking = [layer.masked_fill(mask, -math.inf) for layer, mask in zip(scores, silenced, strict=True)]
        quiet = [layer.masked_fill(mask, -math.inf) for layer, mask in zip(means, silenced, strict=True)]
    removed = plan.removals(ranking, quiet, threshold, budget, allocation)
    widths = plan.widths([len(layer) for layer in scores], removed, multiple_of, at_least=budget is not None)
    return NeuronCut(plan.keep_highest(ranking, widths), scores, means, num_below)


def set_widths(config: PreTrainedConfig, spec: ArchitectureSpec, widths: Sequence[int]) -> None:
    """Write the MLP widths into the config: one number where all layers agree (stock classes load that), else a list."""
    setattr(config, spec.width_field, max(widths))
    if len(set(widths)) > 1:
        config.intermediate_sizes = list(widths)
    elif hasattr(config, "intermediate_sizes"):
        del config.intermediate_sizes


def with_mlp_biases(weights: Mapping[str, Tensor], config: PreTrainedConfig, spec: ArchitectureSpec) -> dict[str, Tensor]:
    """Give the MLPs zero biases where they have none, and say so in the config. Raises UserError for a family without."""
    result = dict(weights)
    if f"{spec.layer(0, spec.mlp_out)}.bias" in weights:
        return result
    if spec.mlp_bias_field is None:
        raise UserError(f"params.yaml: prune_neurons.refit 'bias' needs MLP biases, which {spec.model_type} models can't have")
    setattr(config, spec.mlp_bias_field, True)
    for index in range(config.num_hidden_layers):
        for module in (*spec.mlp_in, spec.mlp_out):
            weight = weights[f"{spec.layer(index, module)}.weight"]
            result[f"{spec.layer(index, module)}.bias"] = weight.new_zeros(len(weight))
    return result
