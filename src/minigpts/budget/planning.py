"""From a parent and its text to the curves of its resources, and from these and a limit to the plan."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from minigpts.budget import rounding, table, trials
from minigpts.budget.accounting import weights_bytes
from minigpts.budget.curves import KINDS, Curve, Curves, Damage, halved
from minigpts.budget.damage import DamageMeter
from minigpts.budget.exported_size import ExportedSize
from minigpts.budget.plan import Plan
from minigpts.budget.search import Choice, Landed, choose, freed, num_equal
from minigpts.budget.space import Limit, Space
from minigpts.budget.trials import Tuning
from minigpts.errors import UserError
from minigpts.model import checkpoint
from minigpts.model.weights import num_parameters
from minigpts.pruning import cutting, heads, layers, neurons
from minigpts.pruning.params import ByPlan
from minigpts.pruning.slicing import AttentionShape
from minigpts.quantization.groups import GROUPS

NEURON_SHARES = (0.25, 0.5, 0.75, 0.9)  # of the MLP neurons, at which damage is measured
SEEN_SHARES = (1.0, 0.5, 0.25, 0.125)  # of the tokens that occur, most frequent first, that are kept for their count
LEVELS = 4  # counts of heads, and of layers, at which damage is measured


NUM_TRIALS = 3  # plans of different shape that are tuned to find the best


class Found(NamedTuple):
    """What planning gives."""

    plan: Plan
    rows: list[dict[str, Any]]  # of the table: kind, format, level, bytes_freed, damage, standard_error, chosen
    metrics: dict[str, Any]


def measured(meter: DamageMeter, precisions: Sequence[str]) -> Curves:
    """The curves of the resources, a resource at a time, the rest as it is in the parent; then each group's rounding."""
    points: dict[str, list[tuple[float, Damage]]] = {kind: [] for kind in KINDS}
    for kind, units, cut in tqdm(list(_levels(meter, _space(meter, ()))), desc="damage", unit="cut"):
        damage = meter.vocabulary_damage(cut) if isinstance(cut, int) else meter.damage(cut)
        points[kind].append((units, damage))
    vocabulary, mlp, groups, depth = (Curve.through(points[kind]) for kind in KINDS)
    found = rounding.damages(meter, precisions) if precisions else {}
    return Curves(vocabulary, mlp, groups, depth, found, meter.parent_score.document_bytes)


def make(meter: DamageMeter, curves: Curves, limit: Limit, precisions: Sequence[str], tuning: Tuning) -> Found:
    """Search, try the best plans, and measure what was chosen. ``curves`` are what :func:`measured` gave for the same meter.

    Raises UserError for curves that lack one of ``precisions``.
    """
    missing = [name for name in precisions if limit.in_bytes and any(name not in found for found in curves.rounding.values())]
    if missing or (limit.in_bytes and not curves.rounding):
        raise UserError("the curves were measured for other budget.precisions; run check_budget and measure_damage again")
    space = _space(meter, precisions if limit.in_bytes else ())
    plans, candidates = choose(space, curves, limit, _multiple_of(meter, space), NUM_TRIALS if tuning.tokens else 1)
    tried = [_tried(meter, tuning, plan) for plan in plans] if tuning.tokens else []
    best = min(range(len(tried)), key=lambda place: tried[place].bits_per_byte, default=0)
    choice, outline, size = plans[best]
    damage = trials.before_tuning(meter, _cut(meter, plans[best]), choice.num_counted, _formats(choice))
    shapes = space.child(outline)
    plan = Plan(
        num_removed_layers=choice.num_removed_layers,
        num_removed_key_value_heads=choice.num_removed_groups,
        widths=list(outline.widths),
        num_counted_tokens=choice.num_counted,
        vocab_size=outline.num_rows,
        num_parameters=num_parameters(shapes),
        checkpoint_bytes=weights_bytes(shapes, space.dtype),
        formats=_formats(choice),
        file_bytes=size if limit.in_bytes else None,
    )
    freed_bytes = freed(space, outline, choice.formats, meter.parent.config.vocab_size)
    rows = [*table.points(space, curves), *table.chosen(space, curves, choice, outline, freed_bytes)]
    stored = meter.parent.stored.shapes
    metrics = {
        "num_parameters": plan.num_parameters,
        "checkpoint_bytes": plan.checkpoint_bytes,
        "file_bytes": plan.file_bytes,
        "formats": plan.formats,
        "size_reduction": 1 - plan.num_parameters / num_parameters(stored),
        "bytes_reduction": 1 - (plan.file_bytes or plan.checkpoint_bytes) / weights_bytes(stored, space.dtype),
        "freed_share": {kind: size / sum(freed_bytes.values()) for kind, size in freed_bytes.items()},
        "parent_bits_per_byte": meter.parent_score.bits_per_byte,  # of the held-back calibration text
        "predicted_damage": choice.damage,
        # Of the whole plan at once, on held-back text alone: it differs by how cuts add up, and for the vocabulary, whose damage is
        # predicted on all of the text, by what the two texts differ in.
        "measured_damage": damage.bits_per_byte,
        "measured_damage_standard_error": damage.standard_error,
        # Candidates of another shape that are predicted to hurt as much or less, within the standard error of the difference.
        "equal_plans": num_equal(candidates, choice, space, curves),
        "trials": [_trial(plan, after, place == best) for place, (plan, after) in enumerate(zip(plans, tried, strict=False))],
    }
    return Found(plan, rows, metrics)


def _tried(meter: DamageMeter, tuning: Tuning, plan: Landed) -> Damage:
    return trials.after_tuning(meter, tuning, _cut(meter, plan), plan.choice.num_counted, _formats(plan.choice))


def _trial(plan: Landed, after: Damage, chosen: bool) -> dict[str, Any]:
    """A trial as the metrics tell it; damages are above the untuned parent's bits per byte, so tuning may bring them below 0."""
    choice, outline, _ = plan
    return {
        "formats": _formats(choice),
        "num_removed_layers": choice.num_removed_layers,
        "num_removed_key_value_heads": choice.num_removed_groups,
        "num_kept_neurons": choice.num_kept_neurons,
        "vocab_size": outline.num_rows,
        "predicted_damage": choice.damage,
        "damage_after_tuning": after.bits_per_byte,
        "standard_error_after_tuning": after.standard_error,
        "chosen": chosen,
    }


def _cut(meter: DamageMeter, plan: Landed) -> ByPlan:
    return ByPlan(meter.params, plan.outline.widths, plan.choice.num_removed_groups, plan.choice.num_removed_layers)


def _formats(choice: Choice) -> dict[str, str] | None:
    """The format of each group; None where the limit is in parameters."""
    return dict(zip(GROUPS, choice.formats, strict=True)) if choice.formats else None


def _multiple_of(meter: DamageMeter, space: Space) -> int:
    """The parameter, or the narrowest layer's width where that is less."""
    return min(meter.params.multiple_of, *space.depths[0].widths)


def _space(meter: DamageMeter, precisions: Sequence[str]) -> Space:
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
        precisions=precisions,
        file_size=ExportedSize(parent, meter.vocabulary, shapes) if precisions else None,
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
