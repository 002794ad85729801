"""Chooses what a cut keeps, carries it out tensor by tensor, and says what it removed."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minigpts.errors import UserError
from minigpts.model import checkpoint, packing
from minigpts.model.experts import has_experts, part_of
from minigpts.model.families import spec_for
from minigpts.model.spec import ArchitectureSpec
from minigpts.model.weights import NamedTensors, StoredWeights, num_parameters, read_tensors
from minigpts.profiling.statistics import Statistics
from minigpts.pruning import experts, heads, layers, linear, neurons, refit
from minigpts.pruning.allocation import below_threshold, keep_highest
from minigpts.pruning.params import ByPlan, ByThreshold, Decision
from minigpts.pruning.slicing import AttentionShape, LayerCut, slice_layer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Parent:
    """The model to cut, and what its profile says. Raises UserError for the profile of another model."""

    folder: Path
    config: PreTrainedConfig
    spec: ArchitectureSpec
    stored: StoredWeights
    statistics: Statistics[Tensor]

    def __post_init__(self) -> None:
        num_layers, num_heads = self.config.num_hidden_layers, self.config.num_attention_heads
        found = self.statistics
        if found.num_layers != num_layers:
            raise UserError("the activation statistics don't fit this model's layers; run profile_activations again")
        for index in range(num_layers):
            heads_here = num_heads if self.spec.attends(self.stored.shapes, index) else 0
            expected = (self._width(index), heads_here, self._num_experts(index))
            if (found.width(index), found.num_heads(index), found.num_experts(index)) != expected:
                raise UserError(f"the activation statistics don't fit layer {index} of this model; run profile_activations again")

    def _width(self, index: int) -> int:
        spec = self.spec
        return self.stored.shapes[f"{spec.layer(index, spec.mlp_out)}.weight"][spec.input_axis] if spec.mlp_out else 0

    def _num_experts(self, index: int) -> int:
        return experts.num_experts(self.config, self.spec) if has_experts(self.spec, self.stored.shapes, index) else 0

    @classmethod
    def load(cls, folder: Path, statistics: Path) -> Parent:
        """From a checkpoint folder and what profile_activations wrote; no tensor of the model is read yet."""
        config = checkpoint.load_config(folder)
        spec, stored = spec_for(config.model_type), StoredWeights(folder)
        return cls(folder, config, spec, stored, Statistics(read_tensors(statistics)))


@dataclass(frozen=True)
class Cut:
    """What is kept, and the scores and the decision that said so. Lists of scores have an entry for every layer of the parent."""

    decision: Decision
    layers: list[LayerCut]  # the remaining ones, in order
    attention: AttentionShape  # the parent's
    neurons: neurons.NeuronScores
    group_scores: list[Tensor] | None  # (num_key_value_heads,); None where no head is removed
    expert_scores: list[Tensor] | None  # (num_experts,), () in a dense layer; None of a model without experts
    layer_scores: Tensor  # (num_hidden_layers,)
    marked: Mapping[str, linear.LinearMarks]  # what the paper's linear rule removes or zeroes, where it was asked for


def choose(parent: Parent, decision: Decision) -> Cut:
    """Choose layers first, then the neurons and the key/value groups that the remaining layers keep. Raises UserError for what
    can't be removed."""
    stored, spec, statistics, settings = parent.stored, parent.spec, parent.statistics, decision.params
    _require_possible(parent.config, spec, decision)
    num_layers, attention = parent.config.num_hidden_layers, AttentionShape.of(parent.config)
    layer_scores = layers.scores(statistics)
    kept_layers = layers.kept(layer_scores, decision.num_removed_layers, layers.kinds(spec, stored.shapes, num_layers))
    found = neurons.scores(stored, spec, statistics, settings.criterion, settings.seed)
    marked = {} if settings.linear_threshold is None else linear.marks(statistics, settings.linear_threshold)
    if isinstance(decision, ByPlan):
        kept = keep_highest([found.scores[index] for index in kept_layers], decision.widths)
    else:
        kept = neurons.kept_by_threshold(
            found,
            kept_layers,
            threshold=decision.threshold,
            allocation=settings.allocation,
            multiple_of=settings.multiple_of,
            silenced=[linear.removable_neurons(marked, stored.shapes, spec, index) for index in range(num_layers)]
            if marked
            else None,
        )
    group_scores, groups = None, [torch.arange(attention.num_groups)] * num_layers
    if decision.num_removed_groups:
        heads.require_removable(spec, attention, decision.num_removed_groups)
        group_scores = heads.scores(stored, spec, attention, statistics, settings.criterion)
        groups = keep_highest(group_scores, [attention.num_groups - decision.num_removed_groups] * num_layers)
    expert_scores, kept_experts = None, [torch.empty(0, dtype=torch.int64)] * num_layers
    if spec.experts is not None:
        num_groups = experts.num_groups(parent.config, spec)
        expert_scores = experts.scores(statistics, settings.expert_criterion, settings.seed)
        kept_experts = [
            experts.kept(layer, decision.num_removed_experts, num_groups) if len(layer) else layer.long() for layer in expert_scores
        ]
    cuts = [LayerCut(index, keep, groups[index], kept_experts[index]) for index, keep in zip(kept_layers, kept, strict=True)]
    return Cut(decision, cuts, attention, found, group_scores, expert_scores, layer_scores, marked)


def _require_possible(config: PreTrainedConfig, spec: ArchitectureSpec, decision: Decision) -> None:
    """Raise a UserError for a decision that asks of a model what it can't lose."""
    settings = decision.params
    experts.require_removable(config, spec, decision.num_removed_experts)
    if not spec.mlp_out and settings.refit == "bias":
        raise UserError(
            f"params.yaml: prune_neurons.refit 'bias' needs MLP neurons, and {spec.model_type} models have experts instead"
        )
    if not spec.mlp_out and settings.linear_threshold is not None:
        raise UserError(
            f"params.yaml: prune_neurons.linear_threshold must be null: the paper's rule knows no {spec.model_type} experts"
        )


def child(parent: Parent, cut: Cut, texts: Sequence[str], where: torch.device) -> tuple[PreTrainedConfig, NamedTensors]:
    """The child's config, and its tensors as they come, the output projections having made up for what was removed.

    ``texts`` are the calibration documents that least_squares is fitted on, ``where`` the device to fit on.
    """
    settings = cut.decision.params
    config = shrunk_config(parent.config, parent.spec, cut, with_biases=settings.refit == "bias")
    if settings.refit == "least_squares" and (parent.spec.mlp_out or _removes_any(cut)):
        tokens = _packed(parent, texts, settings.sequence_length).to(where)
        changed = refit.least_squares(parent.stored, parent.config, config, parent.spec, cut.layers, cut.attention, tokens)
    else:
        changed = sliced(parent, cut)
    return config, named(parent.stored, parent.spec, cut.layers, changed)


def _removes_any(cut: Cut) -> bool:
    decision = cut.decision
    return bool(decision.num_removed_experts or decision.num_removed_groups or decision.num_removed_layers)


def _packed(parent: Parent, texts: Sequence[str], length: int) -> Tensor:
    packing.require_positions(parent.config, length, "prune_neurons.sequence_length")
    tokenizer = checkpoint.load_fast_tokenizer(parent.folder)
    return torch.from_numpy(packing.pack_texts(tokenizer, parent.config, texts, length))


def shrunk_config(parent: PreTrainedConfig, spec: ArchitectureSpec, cut: Cut, *, with_biases: bool) -> PreTrainedConfig:
    """The child's config; ``with_biases``: its MLPs have biases even if the parent's have none.

    Raises UserError where stock classes can't hold the result.
    """
    config = copy.deepcopy(parent)
    heads.set_heads(config, spec, cut.attention, len(cut.layers[0].groups))
    layers.set_layers(config, spec, [layer.index for layer in cut.layers])
    neurons.set_widths(config, spec, [len(layer.neurons) for layer in cut.layers])
    experts.set_experts(config, spec, experts.num_experts(config, spec) - cut.decision.num_removed_experts)
    for name, value in spec.derives.items():
        if hasattr(config, name):
            setattr(config, name, value)
    if with_biases and spec.mlp_bias_field is not None:
        setattr(config, spec.mlp_bias_field, True)
    return config


def sliced(parent: Parent, cut: Cut) -> Iterator[refit.ChangedLayer]:
    """Every remaining layer, without a fit: zeros where the linear rule marks some, and with refit ``bias`` the means of the
    removed neurons folded into the output biases."""
    spec = parent.spec
    for layer in cut.layers:
        whole = _read_layer(parent.stored, spec, layer.index)
        tensors = linear.zeroed(whole, linear.of_layer(cut.marked, spec, layer.index), spec)
        if cut.decision.params.refit == "bias":
            tensors = refit.with_folded_means(tensors, spec, parent.statistics.mean(layer.index), layer.neurons)
        tensors = slice_layer(tensors, spec, layer, cut.attention)
        yield layer.index, {name: tensor for name, tensor in tensors.items() if tensor is not whole.get(name)}


def _read_layer(stored: StoredWeights, spec: ArchitectureSpec, index: int) -> dict[str, Tensor]:
    """The tensors of a layer. Those of single experts stay where they are stored, since a cut only numbers them anew."""
    prefix = spec.layer(index, "")
    names = [name.removeprefix(prefix) for name in stored if name.startswith(prefix)]
    apart = {name for name in names if spec.experts is not None and part_of(spec.experts, name).expert is not None}
    return {name: stored.entries[prefix + name] if name in apart else stored[prefix + name] for name in names}  # type: ignore[misc]


def named(
    stored: StoredWeights, spec: ArchitectureSpec, cuts: Sequence[LayerCut], changed: Iterable[refit.ChangedLayer]
) -> NamedTensors:
    """The child's tensors by name, a layer at a time; what the cut doesn't change is copied from where it is stored."""
    inside = f"{spec.layers}."
    yield from ((name, entry) for name, entry in stored.entries.items() if not name.startswith(inside))
    for position, (cut, (index, tensors)) in enumerate(zip(cuts, changed, strict=True)):
        prefix = spec.layer(index, "")
        kept = [name.removeprefix(prefix) for name in stored.entries if name.startswith(prefix)]
        if spec.experts is not None and len(cut.experts):  # the last numbers are no expert's any more
            kept = [name for name in kept if (part_of(spec.experts, name).expert or 0) < len(cut.experts)]
        yield from ((spec.layer(position, name), stored.entries[prefix + name]) for name in kept if name not in tensors)
        yield from ((spec.layer(position, name), tensor) for name, tensor in tensors.items())


def metrics(cut: Cut, before: StoredWeights, after: StoredWeights, spec: ArchitectureSpec) -> dict[str, Any]:
    """What was removed, and what decided it. ``num_zeroed_parameters``: kept, but zeroed by the paper's linear rule; a physical
    cut leaves none."""
    num_neurons = sum(len(score) for score in cut.neurons.scores)
    num_kept = sum(len(layer.neurons) for layer in cut.layers)
    num_before, num_after = (num_parameters(stored.shapes) for stored in (before, after))
    widths = [len(layer.neurons) for layer in cut.layers]
    return {
        **_decided_by(cut),
        "num_neurons": num_neurons,
        "num_removed_neurons": num_neurons - num_kept,
        "removed_neurons_share": 1 - num_kept / num_neurons if num_neurons else 0.0,
        **({} if cut.expert_scores is None else _experts(cut)),
        "num_removed_layers": len(cut.layer_scores) - len(cut.layers),
        "num_removed_key_value_heads": cut.attention.num_groups - len(cut.layers[0].groups),  # of each remaining layer
        "num_removed_parameters": num_before - num_after,
        "size_reduction": 1 - num_after / num_before,
        "num_zeroed_parameters": _num_zeroed(cut, before, after, spec) if cut.marked else 0,
        "min_width": min(widths),
        "max_width": max(widths),
    }


def _experts(cut: Cut) -> dict[str, int]:
    """Experts of each layer that is a mixture."""
    assert cut.expert_scores is not None
    return {"num_experts": max(map(len, cut.expert_scores)), "num_removed_experts": cut.decision.num_removed_experts}


def _decided_by(cut: Cut) -> dict[str, Any]:
    """``decided_by`` "plan", or "threshold" with how many neurons of the remaining layers are at or below it."""
    if not isinstance(cut.decision, ByThreshold):
        return {"decided_by": "plan"}
    candidates = [cut.neurons.mean_abs[layer.index] for layer in cut.layers]
    num_below, num_candidates = sum(below_threshold(candidates, cut.decision.threshold)), sum(map(len, candidates))
    return {
        "decided_by": "threshold",
        "threshold": cut.decision.threshold,
        "num_below_threshold": num_below,
        "num_candidate_neurons": num_candidates,
        "below_threshold_share": num_below / num_candidates if num_candidates else 0.0,
    }


def _num_zeroed(cut: Cut, before: StoredWeights, after: StoredWeights, spec: ArchitectureSpec) -> int:
    total = 0
    for position, layer in enumerate(cut.layers):
        total += linear.num_nonzero(slice_layer(before.under(f"{spec.layers}.{layer.index}"), spec, layer, cut.attention))
        total -= linear.num_nonzero(after.under(f"{spec.layers}.{position}"))
    return total
