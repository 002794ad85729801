"""Whole layers: those that change the hidden state least are removed first (ShortGPT, arXiv 2403.03853)."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minigpts.errors import UserError
from minigpts.model.spec import ArchitectureSpec
from minigpts.profiling.statistics import Statistics
from minigpts.pruning.allocation import keep_highest

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def scores(statistics: Statistics[Tensor]) -> Tensor:
    """Block influence of every layer, (num_layers,)."""
    return torch.stack([statistics.block_influence(index) for index in range(statistics.num_layers)])


def kinds(spec: ArchitectureSpec, names: Container[str], num_layers: int) -> list[bool]:
    """Whether each layer of the weights file with tensors ``names`` has attention: all of them, but in a hybrid."""
    return [spec.attends(names, index) for index in range(num_layers)]


def kept(layer_scores: Tensor, num_removed: int, kinds: Sequence[bool]) -> list[int]:
    """The layers left when the ``num_removed`` lowest scores are removed, in order; the highest of each kind stays.

    A hybrid without attention, or without recurrence, is none that its class or its cache can hold. Raises UserError when fewer
    layers than kinds would be left.
    """
    rule = f"params.yaml: prune_neurons.layers is {num_removed}, but the model has {len(layer_scores)} layers"
    if len(layer_scores) - num_removed < len(set(kinds)):
        raise UserError(rule if len(set(kinds)) == 1 else f"{rule} of {len(set(kinds))} kinds, and one of each must stay")
    ranks = layer_scores.clone()
    for kind in set(kinds):
        of_kind = torch.tensor([index for index, other in enumerate(kinds) if other == kind])
        ranks[of_kind[layer_scores[of_kind].argmax()]] = math.inf
    (staying,) = keep_highest([ranks], [len(layer_scores) - num_removed])
    return staying.tolist()


def set_layers(config: PreTrainedConfig, spec: ArchitectureSpec, kept: Sequence[int]) -> None:
    """Write the layers that stay into the config, lists with an entry a layer included.

    Raises UserError for a config under which what a layer computes depends on its number.
    """
    if len(kept) == config.num_hidden_layers:
        return
    for field in spec.depth_switches:
        if value := getattr(config, field, False):
            raise UserError(
                f"params.yaml: prune_neurons.layers must be 0 for this model: config.json has {field}: {json.dumps(value)}"
            )
    for field in spec.layer_lists:
        values = getattr(config, field, None)
        if values is not None:
            setattr(config, field, [values[index] for index in kept])
    config.num_hidden_layers = len(kept)
