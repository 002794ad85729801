"""Which units of the parent a cut kept, with their scores: the maps beside the checkpoint, and the widths for the plot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from minigpts.pruning.cutting import Cut


def index_maps(cut: Cut) -> dict[str, dict[str, np.ndarray]]:
    """The maps by file stem: which neuron, key/value group, expert and layer of the parent was kept, and its score. Nothing of a
    removed layer is kept."""
    staying = {layer.index: layer for layer in cut.layers}
    nothing = torch.empty(0, dtype=torch.int64)
    neurons_kept = [staying[index].neurons if index in staying else nothing for index in range(len(cut.layer_scores))]
    experts_kept = [staying[index].experts if index in staying else nothing for index in range(len(cut.layer_scores))]
    groups_kept = [staying[index].groups if index in staying else nothing for index in range(len(cut.layer_scores))]
    return {
        "pruned_neurons": {
            **_kept_units("neuron", cut.neurons.scores, neurons_kept),
            "mean_abs": torch.cat(cut.neurons.mean_abs).numpy(),
        },
        **({} if cut.group_scores is None else {"pruned_heads": _kept_units("key_value_head", cut.group_scores, groups_kept)}),
        **({} if cut.expert_scores is None else {"pruned_experts": _kept_units("expert", cut.expert_scores, experts_kept)}),
        "pruned_layers": {
            "layer": np.arange(len(cut.layer_scores)),
            "kept": np.array([index in staying for index in range(len(cut.layer_scores))]),
            "score": cut.layer_scores.numpy(),
        },
    }


def _kept_units(unit: str, scores: Sequence[Tensor], kept: Sequence[Tensor]) -> dict[str, np.ndarray]:
    flags = [torch.zeros(len(score), dtype=torch.bool).index_fill_(0, keep, True) for score, keep in zip(scores, kept, strict=True)]
    return {
        "layer": np.concatenate([np.full(len(score), index) for index, score in enumerate(scores)]),
        unit: np.concatenate([np.arange(len(score)) for score in scores]),
        "kept": torch.cat(flags).numpy(),
        "score": torch.cat(list(scores)).numpy(),
    }


def layer_widths(cut: Cut) -> list[dict[str, int]]:
    """Rows for the plot: layer, its MLP neurons, or a mixture's experts (0 where the layer was removed), and the parent's."""
    units = cut.neurons.scores if cut.expert_scores is None else cut.expert_scores
    widths = {layer.index: len(layer.neurons if cut.expert_scores is None else layer.experts) for layer in cut.layers}
    return [{"layer": index, "width": widths.get(index, 0), "parent_width": len(score)} for index, score in enumerate(units)]
