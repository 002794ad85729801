"""Carries a :class:`NeuronCut` out on a checkpoint, and says what it did."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from minigpts import artifacts, checkpoint
from minigpts.architectures.spec import ArchitectureSpec
from minigpts.corpus import packing
from minigpts.errors import UserError
from minigpts.pruning import linear, neurons, refit, slicing
from minigpts.runtime import device

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from minigpts.params import Runtime


def linear_marks(statistics: Mapping[str, Tensor], threshold: float | None) -> dict[str, linear.LinearMarks]:
    """The paper's linear rule; nothing is marked without a threshold. Raises UserError when the profile lacks its sums."""
    if threshold is None:
        return {}
    marked = linear.marks(statistics, threshold)
    if not marked:
        raise UserError("params.yaml: prune_neurons.linear_threshold needs profile.all_linear: true")
    return marked


def silenced(
    marked: Mapping[str, linear.LinearMarks], weights: Mapping[str, Tensor], spec: ArchitectureSpec, num_layers: int
) -> list[Tensor] | None:
    """The neurons of each layer that the linear rule silences; None without the rule."""
    return [linear.removable_neurons(marked, weights, spec, index) for index in range(num_layers)] if marked else None


def sliced(
    weights: Mapping[str, Tensor],
    config: PreTrainedConfig,
    spec: ArchitectureSpec,
    cut: neurons.NeuronCut,
    means_from: Mapping[str, Tensor] | None,
    marked: Mapping[str, linear.LinearMarks],
) -> dict[str, Tensor]:
    """The weights without the neurons that go; zeros where ``marked`` says so; with ``means_from`` (the profile's
    statistics) the means of what went are folded into the output biases, and ``config`` is told that there are biases."""
    whole = linear.zeroed(weights, marked)
    if means_from is not None:
        whole = neurons.with_mlp_biases(whole, config, spec)
        for index, keep in enumerate(cut.kept):
            name = spec.layer(index, spec.mlp_out)
            mean = means_from[f"layers.{index}.mlp.sum"] / means_from["count"]
            whole[f"{name}.bias"] = refit.fold_means(whole[f"{name}.weight"], whole[f"{name}.bias"], mean, keep)
    return slicing.slice_neurons(whole, spec, cut.kept)


def with_least_squares(
    parent: Path, spec: ArchitectureSpec, cut: neurons.NeuronCut, text: Path, sequence_length: int, runtime: Runtime
) -> dict[str, Tensor]:
    """The weights without the neurons that go, the output projections refitted on the calibration ``text``."""
    where = device(runtime)
    documents = packing.encode_lazily(checkpoint.load_fast_tokenizer(parent), artifacts.read_table(text, ["text"])["text"])
    model = checkpoint.load_model(parent, torch.float32).to(where)
    tokens = torch.from_numpy(packing.pack(documents, packing.separator_id(model.config), sequence_length)).to(where)
    rows = max(runtime.batch_tokens // sequence_length, 1)
    refit.least_squares(model, spec, [keep.to(where) for keep in cut.kept], tokens, rows)
    return {name: tensor.cpu() for name, tensor in checkpoint.weights_of(model, checkpoint.stored_dtype(parent)).items()}


def index_map(cut: neurons.NeuronCut) -> dict[str, np.ndarray]:
    """Columns of the map that lies beside the checkpoint: layer, neuron (its index in the parent), kept, score, mean_abs."""
    kept = [torch.isin(torch.arange(len(score)), keep) for score, keep in zip(cut.scores, cut.kept, strict=True)]
    return {
        "layer": np.concatenate([np.full(len(score), index) for index, score in enumerate(cut.scores)]),
        "neuron": np.concatenate([np.arange(len(score)) for score in cut.scores]),
        "kept": torch.cat(kept).numpy(),
        "score": torch.cat(cut.scores).numpy(),
        "mean_abs": torch.cat(cut.mean_abs).numpy(),
    }


def metrics(
    cut: neurons.NeuronCut,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    spec: ArchitectureSpec,
    marked: Mapping[str, linear.LinearMarks],
) -> dict[str, Any]:
    """What went. ``num_zeroed_parameters``: still there, but zeroed by the paper's linear rule; a physical cut leaves none."""
    num_zeroed = linear.num_nonzero(slicing.slice_neurons(before, spec, cut.kept)) - linear.num_nonzero(after) if marked else 0
    num_neurons = sum(len(score) for score in cut.scores)
    num_kept = sum(len(keep) for keep in cut.kept)
    num_before = sum(tensor.numel() for tensor in before.values())
    num_after = sum(tensor.numel() for tensor in after.values())
    return {
        "num_neurons": num_neurons,
        "num_removed_neurons": num_neurons - num_kept,
        "removed_neurons_share": 1 - num_kept / num_neurons,
        "num_below_threshold": cut.num_below_threshold,
        "below_threshold_share": cut.num_below_threshold / num_neurons,
        "num_removed_parameters": num_before - num_after,
        "size_reduction": 1 - num_after / num_before,
        "num_zeroed_parameters": num_zeroed,
        "min_width": min(len(keep) for keep in cut.kept),
        "max_width": max(len(keep) for keep in cut.kept),
    }


def layer_widths(cut: neurons.NeuronCut) -> list[dict[str, int]]:
    """Rows for the plot: layer, its width, and its width in the parent."""
    return [
        {"layer": index, "width": len(keep), "parent_width": len(score)}
        for index, (keep, score) in enumerate(zip(cut.kept, cut.scores, strict=True))
    ]
