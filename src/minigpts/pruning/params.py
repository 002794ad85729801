"""What params.yaml says of a cut, and what decides one: a threshold, or a plan. No torch here, so that stages start fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from minigpts.params import require

Criterion = Literal["l1", "wanda", "flap", "taylor", "magnitude", "random"]
ExpertCriterion = Literal["contribution", "reap", "gate", "frequency", "random"]
Allocation = Literal["per_layer", "uniform", "adaptive"]


@dataclass(frozen=True)
class Params:
    """The ``prune_neurons`` section."""

    criterion: Criterion  # which neurons to remove
    allocation: Allocation  # from which layers
    multiple_of: int  # widths kept are multiples of this
    refit: Literal["none", "bias", "least_squares"]  # how the output projections make up for the cut
    linear_threshold: float | None  # the paper's rule on every linear layer
    experts: int  # experts to remove from every layer of a mixture
    expert_criterion: ExpertCriterion  # which experts
    heads: int  # key/value groups, with their query heads, to remove from every layer
    layers: int  # whole layers to remove
    sequence_length: int  # tokens in one packed sequence of the refit
    seed: int  # of criterion random, of neurons and experts

    def __post_init__(self) -> None:
        require(self.multiple_of >= 1, "prune_neurons.multiple_of must be ≥ 1", self.multiple_of)
        require(self.experts >= 0, "prune_neurons.experts must be ≥ 0", self.experts)
        require(self.heads >= 0, "prune_neurons.heads must be ≥ 0", self.heads)
        require(self.layers >= 0, "prune_neurons.layers must be ≥ 0", self.layers)
        require(self.sequence_length >= 2, "prune_neurons.sequence_length must be ≥ 2", self.sequence_length)
        require(0 <= self.seed < 2**32, "prune_neurons.seed must be ≥ 0 and < 2^32", self.seed)  # torch and numpy take no other
        if self.linear_threshold is not None:
            require(self.linear_threshold >= 0, "prune_neurons.linear_threshold must be ≥ 0", self.linear_threshold)
            rule = "prune_neurons.linear_threshold is the paper to the letter: allocation per_layer, refit none, heads 0, layers 0"
            chosen = (self.allocation, self.refit, self.heads, self.layers)
            require(chosen == ("per_layer", "none", 0, 0), rule, chosen)


@dataclass(frozen=True)
class ByThreshold:
    """params.yaml decides: neurons at or below ε are the budget; its allocation, multiple_of, heads, layers and experts hold."""

    params: Params
    threshold: float  # ε of Eq. 1

    @property
    def num_removed_groups(self) -> int:
        """Key/value groups to remove from every layer."""
        return self.params.heads

    @property
    def num_removed_layers(self) -> int:
        """Whole layers to remove."""
        return self.params.layers

    @property
    def num_removed_experts(self) -> int:
        """Experts to remove from every layer of a mixture."""
        return self.params.experts


@dataclass(frozen=True)
class ByPlan:
    """A plan decides how many units of each kind are left; of ``params`` the criteria, the seed and the refit hold.

    Raises UserError for params that take no plan.
    """

    params: Params
    widths: Sequence[int]  # MLP neurons that each of the remaining layers keeps
    num_removed_groups: int = 0  # key/value groups to remove from every layer
    num_removed_layers: int = 0
    num_removed_experts: int = 0  # from every layer of a mixture

    def __post_init__(self) -> None:
        rule = "prune_neurons.linear_threshold is the paper to the letter and takes no budget"
        require(self.params.linear_threshold is None, rule, self.params.linear_threshold)


Decision = ByThreshold | ByPlan
