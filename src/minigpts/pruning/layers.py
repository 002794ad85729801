"""Whole layers: those that change the hidden state least are removed first (ShortGPT, arXiv 2403.03853)."""

from __future__ import annotations

import json
from collections.abc import Sequence
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


def kept(layer_scores: Tensor, num_removed: int) -> list[int]:
    """The layers left when the ``num_removed`` lowest scores are removed, in order. Raises UserError when none would be."""
    if num_removed >= len(layer_scores):
        raise UserError(f"params.yaml: prune_neurons.layers is {num_removed}, but the model has {len(layer_scores)} layers")
    (staying,) = keep_highest([layer_scores], [len(layer_scores) - num_removed])
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
