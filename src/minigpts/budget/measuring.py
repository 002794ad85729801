"""From a parent and its text to what each of its resources costs: tokens, neurons, heads, layers, experts and bits."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from minigpts.budget import rounding
from minigpts.budget.curves import KINDS, Curve, Curves, Damage, halved
from minigpts.budget.damage import DamageMeter
from minigpts.budget.space import Space
from minigpts.errors import UserError
from minigpts.model import checkpoint
from minigpts.pruning import cutting, experts, heads, layers, neurons
from minigpts.pruning.params import ByPlan
from minigpts.pruning.slicing import AttentionShape

NEURON_SHARES = (0.25, 0.5, 0.75, 0.9)  # of the MLP neurons, at which damage is measured
SEEN_SHARES = (1.0, 0.5, 0.25, 0.125)  # of the tokens that occur, most frequent first, that are kept for their count
LEVELS = 4  # counts of heads, of layers and of experts, at which damage is measured


def measured(meter: DamageMeter, precisions: Sequence[str]) -> Curves:
    """The curves of the resources, a resource at a time, the rest as it is in the parent; then each group's rounding."""
    points: dict[str, list[tuple[float, Damage]]] = {kind: [] for kind in KINDS}
    for kind, units, cut in tqdm(list(_levels(meter, space_of(meter))), desc="damage", unit="cut"):
        damage = meter.vocabulary_damage(cut) if isinstance(cut, int) else meter.damage(cut)
        points[kind].append((units, damage))
    vocabulary, mlp, groups, depth, mixture = (Curve.through(points[kind]) for kind in KINDS)
    found = rounding.damages(meter, precisions) if precisions else {}
    return Curves(vocabulary, mlp, groups, depth, mixture, found, meter.parent_score.document_bytes)


def multiple_of(meter: DamageMeter, space: Space) -> int:
    """The parameter, or the narrowest layer's width where that is less."""
    return min((meter.params.multiple_of, *filter(None, space.depths[0].widths)))


def space_of(meter: DamageMeter) -> Space:
    """What can be chosen from of the meter's parent: nothing of bits yet."""
    parent, settings = meter.parent, meter.params
    config, spec, num_layers = parent.config, parent.spec, parent.config.num_hidden_layers
    shapes, num_experts = parent.stored.shapes, experts.num_experts(config, spec)
    if settings.refit == "bias" and spec.mlp_bias_field is not None:
        biased = copy.deepcopy(config)
        setattr(biased, spec.mlp_bias_field, True)
        shapes = checkpoint.stored_shapes(biased)
    return Space(
        shapes=shapes,
        dtype=parent.stored.dtype,
        spec=spec,
        num_groups=AttentionShape.of(config).num_groups,
        layer_scores=layers.scores(parent.statistics),
        scores=neurons.scores(parent.stored, spec, parent.statistics, settings.criterion, settings.seed),
        vocabulary_sizes=meter.vocabulary.sizes,
        allocation=settings.allocation,
        head_options=[number for number in range(1, AttentionShape.of(config).num_groups) if _heads_can_go(parent, number)],
        layer_options=[number for number in range(1, num_layers // 2 + 1) if _layers_can_go(parent, number)],
        num_experts=num_experts,
        expert_options=[number for number in range(1, num_experts) if _experts_can_go(parent, number)],
    )


def _heads_can_go(parent: cutting.Parent, number: int) -> bool:
    attention = AttentionShape.of(parent.config)
    try:
        heads.require_removable(parent.spec, attention, number)
        heads.set_heads(copy.deepcopy(parent.config), parent.spec, attention, attention.num_groups - number)
    except UserError:  # the family's classes can't hold it
        return False
    return True


def _layers_can_go(parent: cutting.Parent, number: int) -> bool:
    scores = layers.scores(parent.statistics)
    try:
        kept = layers.kept(scores, number, layers.kinds(parent.spec, parent.stored.shapes, len(scores)))
        layers.set_layers(copy.deepcopy(parent.config), parent.spec, kept)
    except UserError:
        return False
    return True


def _experts_can_go(parent: cutting.Parent, number: int) -> bool:
    try:
        experts.require_removable(parent.config, parent.spec, number)
    except UserError:
        return False
    return True


def _levels(meter: DamageMeter, space: Space) -> Iterator[tuple[str, float, ByPlan | int]]:
    """What to measure: kind, units removed, and the cut, or the number of tokens kept for their count."""
    whole, step = ByPlan(meter.params, space.depths[0].widths), multiple_of(meter, space)
    seen, sizes, before = int((meter.vocabulary.counts > 0).sum()), space.vocabulary_sizes, space.vocabulary_sizes[-1]
    for share in SEEN_SHARES:
        number = max(round(seen * share), 1)
        if sizes[number] < before:
            before = sizes[number]
            yield "vocabulary", float(sizes[-1] - before), number
    total, everything = sum(whole.widths), space.depths[0].layers
    counts = space.neuron_counts(0, step)
    nearest = {int(counts[np.abs(counts - (1 - share) * total).argmin()]) for share in NEURON_SHARES}  # a mixture has none
    for kept in sorted(nearest - {total}, reverse=True):
        widths = neurons.widths_of_sum(space.scores, everything, kept, allocation=space.allocation, multiple_of=step)
        yield "MLP", 1 - kept / total, replace(whole, widths=widths)
    for number in halved(space.head_options, LEVELS):
        yield "heads", number, replace(whole, num_removed_groups=number)
    for number in halved(space.layer_options, LEVELS):
        yield "layers", number, replace(whole, num_removed_layers=number, widths=space.depths[number].widths)
    for number in halved(space.expert_options, LEVELS):
        yield "experts", number, replace(whole, num_removed_experts=number)
