"""Plans a whole cut, carries it out tensor by tensor, and says what it did."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from minigpts.errors import UserError
from minigpts.model import checkpoint, packing
from minigpts.model.device import device
from minigpts.model.families import spec_for
from minigpts.model.spec import ArchitectureSpec
from minigpts.model.weights import NamedTensors, StoredTensor, StoredWeights, num_parameters, read_tensors
from minigpts.pruning import heads, layers, linear, neurons, refit
from minigpts.pruning.allocation import Allocation, below_threshold, keep_highest
from minigpts.pruning.slicing import AttentionShape, LayerCut, slice_layer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from minigpts.params import Runtime


@dataclass(frozen=True)
class Cut:
    """What stays, and the scores that said so. Lists have an entry for every layer of the parent."""

    layers: list[LayerCut]  # those that stay, in order
    attention: AttentionShape  # the parent's
    neurons: neurons.NeuronScores
    group_scores: list[Tensor] | None  # (num_key_value_heads,); None where no head goes
    layer_scores: Tensor  # (num_hidden_layers,)
    num_below_threshold: int  # neurons of the layers that stay with m_j ≤ ε; the budget unless a plan sets it


@dataclass(frozen=True)
class Parent:
    """The model that is cut, and what its profile says."""

    folder: Path
    config: PreTrainedConfig
    spec: ArchitectureSpec
    stored: StoredWeights
    statistics: Mapping[str, Tensor]

    @classmethod
    def load(cls, folder: Path, statistics: Path) -> Parent:
        """From a checkpoint folder and what profile_activations wrote; no tensor of the model is read yet."""
        config = checkpoint.load_config(folder)
        spec, stored = spec_for(config.model_type), StoredWeights(folder)
        return cls(folder, config, spec, stored, read_tensors(statistics))


@dataclass(frozen=True)
class Request:
    """What is asked of a cut."""

    criterion: neurons.Criterion
    seed: int  # of criterion random
    allocation: Allocation
    multiple_of: int  # widths kept are multiples of this
    threshold: float = 0.0  # ε: neurons at or below it are the budget, unless ``widths`` say how many stay
    num_removed_groups: int = 0  # key/value heads of every layer
    num_removed_layers: int = 0
    widths: Sequence[int] | None = None  # of the layers that stay


@dataclass(frozen=True)
class Calibration:
    """How what stays makes up for what goes."""

    refit: Literal["none", "bias", "least_squares"]
    texts: Sequence[str]  # calibration documents that least_squares is fitted on
    sequence_length: int  # tokens in one packed sequence of them
    runtime: Runtime


def plan_cut(parent: Parent, request: Request, marked: Mapping[str, linear.LinearMarks] | None = None) -> Cut:
    """Choose layers first, then the neurons and the key/value groups of the layers that stay; neurons that the paper's linear
    rule can remove wherever it has ``marked`` something go besides."""
    stored, spec, statistics, criterion = parent.stored, parent.spec, parent.statistics, request.criterion
    num_layers, attention = parent.config.num_hidden_layers, AttentionShape.of(parent.config)
    layer_scores = layers.scores(statistics, num_layers)
    kept_layers = layers.kept(layer_scores, request.num_removed_layers)
    found = neurons.scores(stored, spec, statistics, num_layers, criterion, request.seed)
    if request.widths is not None:
        kept = keep_highest([found.scores[index] for index in kept_layers], request.widths)
    else:
        kept = neurons.plan_cut(
            found,
            kept_layers,
            threshold=request.threshold,
            allocation=request.allocation,
            multiple_of=request.multiple_of,
            silenced=[linear.removable_neurons(marked, stored.shapes, spec, index) for index in range(num_layers)]
            if marked
            else None,
        )
    group_scores, groups = None, [torch.arange(attention.num_groups)] * num_layers
    if request.num_removed_groups:
        heads.require_removable(spec, attention, request.num_removed_groups)
        group_scores = heads.scores(stored, spec, attention, statistics, num_layers, criterion)
        groups = keep_highest(group_scores, [attention.num_groups - request.num_removed_groups] * num_layers)
    cuts = [LayerCut(index, keep, groups[index]) for index, keep in zip(kept_layers, kept, strict=True)]
    num_below = sum(below_threshold([found.mean_abs[cut.index] for cut in cuts], request.threshold))
    return Cut(cuts, attention, found, group_scores, layer_scores, num_below)


def child(
    parent: Parent, cut: Cut, calibration: Calibration, marked: Mapping[str, linear.LinearMarks] | None = None
) -> tuple[PreTrainedConfig, NamedTensors]:
    """The child's config, and its tensors as they come, the output projections having made up for what went."""
    stored, spec = parent.stored, parent.spec
    config = shrunk_config(parent.config, spec, cut, with_biases=calibration.refit == "bias")
    refitted = refitted_weights(parent, config, cut, calibration) if calibration.refit == "least_squares" else None
    means_from = parent.statistics if calibration.refit == "bias" else None
    return config, sliced(stored, spec, cut, marked=marked, means_from=means_from, refitted=refitted)


def linear_marks(statistics: Mapping[str, Tensor], threshold: float | None) -> dict[str, linear.LinearMarks]:
    """The paper's linear rule; nothing is marked without a threshold. Raises UserError when the profile lacks its sums."""
    if threshold is None:
        return {}
    marked = linear.marks(statistics, threshold)
    if not marked:
        raise UserError("params.yaml: prune_neurons.linear_threshold needs profile.all_linear: true")
    return marked


def shrunk_config(parent: PreTrainedConfig, spec: ArchitectureSpec, cut: Cut, *, with_biases: bool) -> PreTrainedConfig:
    """The child's config; ``with_biases``: its MLPs have biases even if the parent's have none.

    Raises UserError where stock classes can't hold the result.
    """
    config = copy.deepcopy(parent)
    heads.set_heads(config, spec, cut.attention, len(cut.layers[0].groups))
    layers.set_layers(config, spec, [layer.index for layer in cut.layers])
    neurons.set_widths(config, spec, [len(layer.neurons) for layer in cut.layers])
    if with_biases and spec.mlp_bias_field is not None:
        setattr(config, spec.mlp_bias_field, True)
    return config


def sliced(
    stored: StoredWeights,
    spec: ArchitectureSpec,
    cut: Cut,
    *,
    marked: Mapping[str, linear.LinearMarks] | None = None,
    means_from: Mapping[str, Tensor] | None = None,
    refitted: Iterator[dict[str, Tensor]] | None = None,
) -> NamedTensors:
    """The child's tensors by name, a layer at a time: zeros where ``marked`` says so; with ``means_from`` (the profile's
    statistics) the means of the neurons that go folded into the output biases; with ``refitted`` its weights of the output
    projections, one a layer."""
    yield from outside_layers(stored, spec)
    for position, layer in enumerate(cut.layers):
        whole = stored.under(f"{spec.layers}.{layer.index}")
        tensors = linear.zeroed(whole, linear.of_layer(marked or {}, spec, layer.index), spec)
        if means_from is not None:
            mean = means_from[f"layers.{layer.index}.mlp.sum"] / means_from["count"]
            tensors = refit.with_folded_means(tensors, spec, mean, layer.neurons)
        tensors = slice_layer(tensors, spec, layer, cut.attention)
        if refitted is not None:
            tensors |= next(refitted)
        for name, tensor in tensors.items():
            untouched = tensor is whole.get(name)
            yield spec.layer(position, name), stored.entries[spec.layer(layer.index, name)] if untouched else tensor


def refitted_weights(parent: Parent, child: PreTrainedConfig, cut: Cut, calibration: Calibration) -> Iterator[dict[str, Tensor]]:
    """The weights of the child's output projections, layer by layer, refitted on the calibration text."""
    where, length = device(calibration.runtime), calibration.sequence_length
    packing.require_positions(parent.config, length, "prune_neurons.sequence_length")
    packed = packing.pack_texts(checkpoint.load_fast_tokenizer(parent.folder), parent.config, calibration.texts, length)
    tokens = torch.from_numpy(packed).to(where)
    rows = max(calibration.runtime.batch_tokens // length, 1)
    return refit.least_squares(parent.stored, parent.config, child, parent.spec, cut.layers, cut.attention, tokens, rows)


def outside_layers(stored: StoredWeights, spec: ArchitectureSpec) -> Iterator[tuple[str, StoredTensor]]:
    """What no cut of this module touches: embeddings, the final norm, the lm_head."""
    return ((name, entry) for name, entry in stored.entries.items() if not name.startswith(f"{spec.layers}."))


def index_maps(cut: Cut) -> dict[str, dict[str, np.ndarray]]:
    """The maps that lie beside the checkpoint, by file stem: which neuron, key/value group and layer of the parent was kept,
    and its score. What belongs to a layer that went has gone too."""
    staying = {layer.index: layer for layer in cut.layers}
    nothing = torch.empty(0, dtype=torch.int64)
    neurons_kept = [staying[index].neurons if index in staying else nothing for index in range(len(cut.layer_scores))]
    groups_kept = [staying[index].groups if index in staying else nothing for index in range(len(cut.layer_scores))]
    return {
        "pruned_neurons": {
            **_kept_units("neuron", cut.neurons.scores, neurons_kept),
            "mean_abs": torch.cat(cut.neurons.mean_abs).numpy(),
        },
        **({} if cut.group_scores is None else {"pruned_heads": _kept_units("key_value_head", cut.group_scores, groups_kept)}),
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


def metrics(
    cut: Cut,
    before: StoredWeights,
    after: StoredWeights,
    spec: ArchitectureSpec,
    marked: Mapping[str, linear.LinearMarks],
) -> dict[str, Any]:
    """What went. ``num_zeroed_parameters``: still there, but zeroed by the paper's linear rule; a physical cut leaves none."""
    num_neurons = sum(len(score) for score in cut.neurons.scores)
    num_candidates = sum(len(cut.neurons.scores[layer.index]) for layer in cut.layers)
    num_kept = sum(len(layer.neurons) for layer in cut.layers)
    num_before, num_after = (num_parameters(stored.shapes) for stored in (before, after))
    widths = [len(layer.neurons) for layer in cut.layers]
    return {
        "num_neurons": num_neurons,
        "num_removed_neurons": num_neurons - num_kept,
        "removed_neurons_share": 1 - num_kept / num_neurons,
        "num_below_threshold": cut.num_below_threshold,
        "num_candidate_neurons": num_candidates,  # of the layers that stay: the threshold chooses among these
        "below_threshold_share": cut.num_below_threshold / num_candidates,
        "num_removed_layers": len(cut.layer_scores) - len(cut.layers),
        "num_removed_key_value_heads": cut.attention.num_groups - len(cut.layers[0].groups),  # of each layer that stays
        "num_removed_parameters": num_before - num_after,
        "size_reduction": 1 - num_after / num_before,
        "num_zeroed_parameters": _num_zeroed(cut, before, after, spec) if marked else 0,
        "min_width": min(widths),
        "max_width": max(widths),
    }


def _num_zeroed(cut: Cut, before: StoredWeights, after: StoredWeights, spec: ArchitectureSpec) -> int:
    total = 0
    for position, layer in enumerate(cut.layers):
        total += linear.num_nonzero(slice_layer(before.under(f"{spec.layers}.{layer.index}"), spec, layer, cut.attention))
        total -= linear.num_nonzero(after.under(f"{spec.layers}.{position}"))
    return total


def layer_widths(cut: Cut) -> list[dict[str, int]]:
    """Rows for the plot: layer, its width (0 when it went), and its width in the parent."""
    widths = {layer.index: len(layer.neurons) for layer in cut.layers}
    return [
        {"layer": index, "width": widths.get(index, 0), "parent_width": len(score)}
        for index, score in enumerate(cut.neurons.scores)
    ]
