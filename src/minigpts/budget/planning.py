"""From a parent and its text to the curves of its resources, and from these and a limit to the plan."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from minigpts.budget import table
from minigpts.budget.accounting import weights_bytes
from minigpts.budget.curves import KINDS, Curve, Curves, halved
from minigpts.budget.damage import DamageMeter
from minigpts.budget.plan import Plan
from minigpts.budget.search import Limit, Space, choose, freed
from minigpts.errors import UserError
from minigpts.model import checkpoint
from minigpts.model.weights import num_parameters
from minigpts.pruning import cutting, heads, layers, neurons
from minigpts.pruning.params import ByPlan
from minigpts.pruning.slicing import AttentionShape

NEURON_SHARES = (0.25, 0.5, 0.75, 0.9)  # of the MLP neurons, at which damage is measured
SEEN_SHARES = (1.0, 0.5, 0.25, 0.125)  # of the tokens that occur, most frequent first, that are kept for their count
LEVELS = 4  # counts of heads, and of layers, at which damage is measured


class Found(NamedTuple):
    """What planning gives."""

    plan: Plan
    rows: list[dict[str, Any]]  # of the table: kind, level (units removed), bytes_freed, damage, chosen
    metrics: dict[str, Any]


def measured(meter: DamageMeter) -> Curves:
    """The four curves, a resource at a time, the rest as it is in the parent."""
    points: dict[str, list[tuple[float, float]]] = {kind: [(0, 0.0)] for kind in KINDS}
    for kind, units, cut in tqdm(list(_levels(meter, _space(meter))), desc="damage", unit="cut"):
        damage = meter.vocabulary_damage(cut) if isinstance(cut, int) else meter.damage(cut)
        points[kind].append((units, damage))
    vocabulary, mlp, groups, depth = (Curve(*zip(*points[kind], strict=True)) for kind in KINDS)
    return Curves(vocabulary, mlp, groups, depth)


def make(meter: DamageMeter, curves: Curves, limit: Limit) -> Found:
    """Search, and measure what was chosen. ``curves`` are what :func:`measured` gave for the same meter."""
    space = _space(meter)
    choice, outline = choose(space, curves, limit, _multiple_of(meter, space))
    cut = ByPlan(meter.params, outline.widths, choice.num_removed_groups, choice.num_removed_layers)
    damage = meter.damage(cut, choice.num_counted)
    shapes = space.child(outline)
    plan = Plan(
        num_removed_layers=choice.num_removed_layers,
        num_removed_key_value_heads=choice.num_removed_groups,
        widths=list(outline.widths),
        num_counted_tokens=choice.num_counted,
        vocab_size=outline.num_rows,
        num_parameters=num_parameters(shapes),
        checkpoint_bytes=weights_bytes(shapes, space.dtype),
    )
    freed_bytes = freed(space, outline, meter.parent.config.vocab_size)
    rows = [*table.points(space, curves), *table.chosen(space, curves, choice, outline, freed_bytes)]
    stored = meter.parent.stored.shapes
    metrics = {
        "num_parameters": plan.num_parameters,
        "checkpoint_bytes": plan.checkpoint_bytes,
        "size_reduction": 1 - plan.num_parameters / num_parameters(stored),
        "bytes_reduction": 1 - plan.checkpoint_bytes / weights_bytes(stored, space.dtype),
        "freed_share": {kind: size / sum(freed_bytes.values()) for kind, size in freed_bytes.items()},
        "parent_bits_per_byte": meter.parent_bits_per_byte,  # of the held-back calibration text
        "predicted_damage": choice.damage,
        # Of the whole plan at once, on held-back text alone: it differs by how cuts add up, and for the vocabulary, whose damage is
        # predicted on all of the text, by what the two texts differ in.
        "measured_damage": damage,
    }
    return Found(plan, rows, metrics)


def _multiple_of(meter: DamageMeter, space: Space) -> int:
    """The parameter, or the narrowest layer's width where that is less."""
    return min(meter.params.multiple_of, *space.depths[0].widths)


def _space(meter: DamageMeter) -> Space:
    parent, settings = meter.parent, meter.params
    config, spec, num_layers = parent.config, parent.spec, parent.config.num_hidden_layers
    shapes = parent.stored.shapes
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
    try:
        layers.set_layers(copy.deepcopy(parent.config), parent.spec, range(parent.config.num_hidden_layers - number))
    except UserError:
        return False
    return True


def _levels(meter: DamageMeter, space: Space) -> Iterator[tuple[str, float, ByPlan | int]]:
    """What to measure: kind, units removed, and the cut, or the number of tokens kept for their count."""
    whole, multiple_of = ByPlan(meter.params, space.depths[0].widths), _multiple_of(meter, space)
    seen, sizes, before = int((meter.vocabulary.counts > 0).sum()), space.vocabulary_sizes, space.vocabulary_sizes[-1]
    for share in SEEN_SHARES:
        number = max(round(seen * share), 1)
        if sizes[number] < before:
            before = sizes[number]
            yield "vocabulary", float(sizes[-1] - before), number
    total, everything = sum(whole.widths), space.depths[0].layers
    counts = space.neuron_counts(0, multiple_of)
    nearest = {int(counts[np.abs(counts - (1 - share) * total).argmin()]) for share in NEURON_SHARES}
    for kept in sorted(nearest - {total}, reverse=True):
        widths = neurons.widths_of_sum(space.scores, everything, kept, allocation=space.allocation, multiple_of=multiple_of)
        yield "MLP", 1 - kept / total, replace(whole, widths=widths)
    for number in halved(space.head_options, LEVELS):
        yield "heads", number, replace(whole, num_removed_groups=number)
    for number in halved(space.layer_options, LEVELS):
        yield "layers", number, replace(whole, num_removed_layers=number, widths=space.depths[number].widths)
