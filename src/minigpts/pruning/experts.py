"""Experts of a mixture: the same number is removed from every layer, as many of each group where the router chooses groups first.

What is left is the parent with the lost experts' router logits at −∞: their tokens go to the next best of those that stay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minigpts.errors import UserError
from minigpts.model.spec import ArchitectureSpec
from minigpts.profiling.statistics import Statistics
from minigpts.pruning.params import ExpertCriterion

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

GROUP_SCORES = 2  # experts by whose scores a router chooses a group (DeepSeek-V3, arXiv 2412.19437)


def contribution(statistics: Statistics[Tensor], index: int) -> Tensor:
    """√Σ (g‖e‖)² over the tokens routed to an expert: the norm of all it writes for this text. (num_experts,)

    Unit: the residual stream's. REAP's mean keeps an expert that hardly any token of the domain reaches; the sum doesn't. Squares,
    because what a token loses is made up for the worse the larger it is.
    """
    return statistics.experts(index, "gated_square_sum").sqrt()


def reap(statistics: Statistics[Tensor], index: int) -> Tensor:
    """Σ g‖e‖ / n over the n tokens routed to an expert (REAP, arXiv 2510.13999). (num_experts,) Unit: the residual stream's."""
    return statistics.experts(index, "gated_norm_sum") / statistics.experts(index, "routed").clamp_min(1)


def gate(statistics: Statistics[Tensor], index: int) -> Tensor:
    """Σ g: the sum of an expert's gates. (num_experts,) Unit: tokens. Source: EASY-EP's and REAP's baseline."""
    return statistics.experts(index, "gate_sum")


def frequency(statistics: Statistics[Tensor], index: int) -> Tensor:
    """n: how many tokens are routed to an expert. (num_experts,) Unit: tokens. Source: REAP's baseline."""
    return statistics.experts(index, "routed")


CRITERIA: dict[ExpertCriterion, Callable[[Statistics[Tensor], int], Tensor]] = {
    "contribution": contribution,
    "reap": reap,
    "gate": gate,
    "frequency": frequency,
}


def scores(statistics: Statistics[Tensor], criterion: ExpertCriterion, seed: int) -> list[Tensor]:
    """The score of each expert of each layer, (num_experts,) per layer, () of a dense one."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for index in range(statistics.num_layers):
        number = statistics.num_experts(index)
        if criterion == "random" or not number:
            found.append(torch.rand(number, dtype=torch.float64, generator=generator))
        else:
            found.append(CRITERIA[criterion](statistics, index))
    return found


def num_groups(config: PreTrainedConfig, spec: ArchitectureSpec) -> int:
    """Groups that the router chooses among first; 1 where it chooses among all experts."""
    field = spec.experts and spec.experts.groups_field
    return (getattr(config, field) or 1) if field else 1


def require_removable(config: PreTrainedConfig, spec: ArchitectureSpec, num_removed: int) -> None:
    """Raise a UserError where ``num_removed`` experts can't go from every layer."""
    if not num_removed:
        return
    rule = f"params.yaml: prune_neurons.experts is {num_removed}, but"
    if spec.experts is None:
        raise UserError(f"{rule} {spec.model_type} models have no experts")
    number, top_k = num_experts(config, spec), getattr(config, spec.experts.top_k_field)
    groups = num_groups(config, spec)
    if num_removed % groups:
        raise UserError(f"{rule} the router chooses among {groups} groups first; it must be a multiple of {groups}")
    open_groups = config.topk_group if groups > 1 else 1
    fewest = max(groups * -(-top_k // open_groups), groups * GROUP_SCORES if groups > 1 else 1)
    if number - num_removed < fewest:
        raise UserError(f"{rule} of each layer's {number} experts at least {fewest} must stay: a token is routed to {top_k}")


def kept(layer_scores: Tensor, num_removed: int, groups: int) -> Tensor:
    """The sorted indices of the experts that a layer keeps, the highest scores of each group; of equals the lower one stays."""
    by_group = layer_scores.view(groups, -1)
    size = by_group.shape[1]
    order = by_group.argsort(dim=1, descending=True, stable=True)[:, : size - num_removed // groups]
    return (order + size * torch.arange(groups)[:, None]).flatten().sort().values


def num_experts(config: PreTrainedConfig, spec: ArchitectureSpec) -> int:
    """Experts of each layer that is a mixture; 0 of a model without."""
    return 0 if spec.experts is None else getattr(config, spec.experts.number_field)


def set_experts(config: PreTrainedConfig, spec: ArchitectureSpec, number: int) -> None:
    """Write the number of experts that stay into the config of a mixture."""
    if spec.experts is not None:
        setattr(config, spec.experts.number_field, number)
