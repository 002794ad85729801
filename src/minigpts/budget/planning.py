"""From what each resource costs and a limit to the plan: searched, tried, measured as a whole and told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from minigpts.budget import table, trials
from minigpts.budget.accounting import weights_bytes
from minigpts.budget.curves import Curves, Damage
from minigpts.budget.damage import DamageMeter
from minigpts.budget.exported_size import ExportedSize
from minigpts.budget.measuring import multiple_of, space_of
from minigpts.budget.plan import Plan
from minigpts.budget.search import Choice, Landed, choose, freed, num_equal
from minigpts.budget.space import Limit, Space
from minigpts.budget.trials import Tuning
from minigpts.errors import UserError
from minigpts.exporting.general_section import Provenance
from minigpts.model.weights import num_parameters
from minigpts.pruning.params import ByPlan
from minigpts.quantization.groups import GROUPS

NUM_TRIALS = 3  # plans of different shape that are tuned to find the best


class Found(NamedTuple):
    """What planning gives."""

    plan: Plan
    rows: list[dict[str, Any]]  # of the table: kind, format, level, bytes_freed, damage, standard_error, chosen
    metrics: dict[str, Any]


def make(meter: DamageMeter, curves: Curves, limit: Limit, precisions: Sequence[str], tuning: Tuning, origin: Provenance) -> Found:
    """Search, try the best plans, and measure what was chosen. ``curves`` are those of the same meter
    (:func:`minigpts.budget.measuring.measured`).

    ``origin`` is what the exported file says of its parent. Raises UserError for curves that lack one of ``precisions``.
    """
    missing = [name for name in precisions if limit.in_bytes and any(name not in found for found in curves.rounding.values())]
    if missing or (limit.in_bytes and not curves.rounding):
        raise UserError("the curves were measured for other budget.precisions; run check_budget and measure_damage again")
    space = space_of(meter)
    if limit.in_bytes:
        exact = ExportedSize(meter.parent, meter.vocabulary, origin, space.shapes, meter.params.refit == "bias")
        space = _exportable(replace(space, precisions=precisions, file_size=exact), exact)
    plans, candidates = choose(space, curves, limit, multiple_of(meter, space), NUM_TRIALS if tuning.tokens else 1)
    tried = [_tried(meter, tuning, plan) for plan in plans] if tuning.tokens else []
    best = min(range(len(tried)), key=lambda place: tried[place].bits_per_byte, default=0)
    choice, outline, size = plans[best]
    damage = trials.before_tuning(meter, _cut(meter, plans[best]), choice.num_counted, _formats(choice))
    shapes = space.child(outline)
    plan = Plan(
        num_removed_layers=choice.num_removed_layers,
        num_removed_key_value_heads=choice.num_removed_groups,
        num_removed_experts=choice.num_removed_experts,
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


def _exportable(space: Space, exact: ExportedSize) -> Space:
    """The space without the numbers of heads and layers that no file can hold."""
    tokens = int(space.vocabulary_sizes[-1])
    whole = space.uncut(0, tokens)
    without_heads = {number: replace(whole, num_groups=space.num_groups - number) for number in space.head_options}
    without_layers = {number: space.uncut(number, tokens) for number in space.layer_options}
    options = ([n for n, outline in each.items() if exact.holds(outline)] for each in (without_heads, without_layers))
    head_options, layer_options = options
    return replace(space, head_options=head_options, layer_options=layer_options)


def _tried(meter: DamageMeter, tuning: Tuning, plan: Landed) -> Damage:
    return trials.after_tuning(meter, tuning, _cut(meter, plan), plan.choice.num_counted, _formats(plan.choice))


def _trial(plan: Landed, after: Damage, chosen: bool) -> dict[str, Any]:
    """A trial as the metrics tell it; damages are above the untuned parent's bits per byte, so tuning may bring them below 0."""
    choice, outline, _ = plan
    return {
        "formats": _formats(choice),
        "num_removed_layers": choice.num_removed_layers,
        "num_removed_key_value_heads": choice.num_removed_groups,
        "num_removed_experts": choice.num_removed_experts,
        "num_kept_neurons": choice.num_kept_neurons,
        "vocab_size": outline.num_rows,
        "predicted_damage": choice.damage,
        "damage_after_tuning": after.bits_per_byte,
        "standard_error_after_tuning": after.standard_error,
        "chosen": chosen,
    }


def _cut(meter: DamageMeter, plan: Landed) -> ByPlan:
    choice = plan.choice
    return ByPlan(
        meter.params, plan.outline.widths, choice.num_removed_groups, choice.num_removed_layers, choice.num_removed_experts
    )


def _formats(choice: Choice) -> dict[str, str] | None:
    """The format of each group; None where the limit is in parameters."""
    return dict(zip(GROUPS, choice.formats, strict=True)) if choice.formats else None
