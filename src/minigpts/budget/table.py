"""The plan as a table: what was measured of bits, vocabulary, width, experts and depth, and what the plan takes of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from minigpts.budget.accounting import Outline
from minigpts.budget.curves import Curve, Curves
from minigpts.budget.search import Choice
from minigpts.budget.space import Space, bits_of
from minigpts.model.weights import num_parameters
from minigpts.quantization.groups import GROUPS


def _row(kind: str, level: float, size: float, damage: Any, error: float | None, **more: Any) -> dict[str, Any]:
    values = {"kind": kind, "format": "", "level": round(level), "bytes_freed": round(size), "damage": float(damage)}
    return {**values, "standard_error": error, "chosen": False, **more}


def points(space: Space, curves: Curves) -> Iterator[dict[str, Any]]:
    """The measured points as rows: units removed, and for bits a format."""
    uncut = space.uncut(0, int(space.vocabulary_sizes[-1]))
    before = num_parameters(space.child(uncut))

    def rows(kind: str, curve: Curve, outlines: Sequence[Outline], units: float = 1) -> Iterator[dict[str, Any]]:
        for place, outline in enumerate(outlines):
            saved = (before - num_parameters(space.child(outline))) * space.dtype.itemsize
            error = curve.standard_errors[place] if curve.standard_errors else None
            yield _row(kind, curve.units[place] * units, saved, curve.damage[place], error)

    vocabulary, heads, layers, experts = curves.vocabulary, curves.heads, curves.layers, curves.experts
    yield from rows("vocabulary", vocabulary, [replace(uncut, num_rows=uncut.num_rows - round(n)) for n in vocabulary.units])
    if space.num_experts:
        fewer = [replace(uncut, num_experts=space.num_experts - round(n)) for n in experts.units]
        yield from rows("experts", experts, fewer)
    else:
        yield from (
            _row("MLP", number, number * space.per_neuron * space.dtype.itemsize, damage, error)
            for number, damage, error in _neurons(curves.neurons, sum(uncut.widths))
        )
    yield from rows("heads", heads, [replace(uncut, num_groups=space.num_groups - round(n)) for n in heads.units])
    depths = [space.depths[round(n)] for n in layers.units]
    yield from rows("layers", layers, [replace(uncut, layers=depth.layers, widths=depth.widths) for depth in depths])
    for group, formats in curves.rounding.items():
        for name in space.precisions:
            saved = space.bytes_saved_by(uncut, [name] * len(GROUPS))[bits_of(group)]
            damage = formats[name]
            yield _row(bits_of(group), 0, saved, damage.bits_per_byte, damage.standard_error, format=name)


def _neurons(curve: Curve, total: int) -> Iterator[tuple[int, float, float | None]]:
    for place, share in enumerate(curve.units):
        yield round(share * total), curve.damage[place], curve.standard_errors[place] if curve.standard_errors else None


def chosen(
    space: Space, curves: Curves, choice: Choice, outline: Outline, freed_bytes: Mapping[str, int]
) -> Iterator[dict[str, Any]]:
    """What was chosen of each kind, as rows; its bytes are those that it frees after the others."""
    share = float(space.removed_share(choice.num_removed_layers, np.array(choice.num_kept_neurons)))
    removed = sum(space.depths[choice.num_removed_layers].widths) - choice.num_kept_neurons
    tokens = int(space.vocabulary_sizes[-1]) - outline.num_rows
    levels = {
        "vocabulary": (tokens, curves.vocabulary.at(tokens)),
        "MLP": (removed, curves.neurons.at(share)),
        "experts": (choice.num_removed_experts, curves.experts.at(choice.num_removed_experts)),
        "heads": (choice.num_removed_groups, curves.heads.at(choice.num_removed_groups)),
        "layers": (choice.num_removed_layers, curves.layers.at(choice.num_removed_layers)),
    }
    for kind, (level, damage) in levels.items():
        if kind in freed_bytes:
            yield _row(kind, level, freed_bytes[kind], damage, None, chosen=True)
    for group, name in zip(GROUPS, choice.formats, strict=False):
        if group in curves.rounding:
            found = curves.rounding[group][name]
            size = freed_bytes[bits_of(group)]
            yield _row(bits_of(group), 0, size, found.bits_per_byte, found.standard_error, format=name, chosen=True)


def text(rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> str:
    """The rows as aligned text, and lines that sum them up."""
    lines = [f"{'kind':<22}{'removed':>10}{'MB freed':>12}{'bits/byte':>12}{'±':>9}"]
    for row in rows:
        mark = "  <- chosen" if row["chosen"] else ""
        error = "" if row["standard_error"] is None else f"{row['standard_error']:.4f}"
        level = row["format"] or f"{row['level']:,}"
        lines.append(f"{row['kind']:<22}{level:>10}{row['bytes_freed'] / 1e6:>12.3f}{row['damage']:>+12.4f}{error:>9}{mark}")
    lines += [_trial(number, trial) for number, trial in enumerate(metrics["trials"], 1)]
    size = metrics["file_bytes"] or metrics["checkpoint_bytes"]
    lines.append(
        f"planned: {metrics['num_parameters']:,} parameters, {size:,} bytes;"
        f" {metrics['parent_bits_per_byte']:.4f} bits per byte before, {metrics['predicted_damage']:+.4f} predicted,"
        f" {metrics['measured_damage']:+.4f} ± {metrics['measured_damage_standard_error']:.4f} measured;"
        f" {metrics['equal_plans']:,} others are predicted to be as good within a standard error"
    )
    return "\n".join(lines)


def _trial(number: int, trial: Mapping[str, Any]) -> str:
    formats = "" if trial["formats"] is None else " " + " ".join(trial["formats"][group] for group in GROUPS)
    return (
        f"trial {number}:{formats} -{trial['num_removed_layers']} layers -{trial['num_removed_key_value_heads']} heads"
        f" -{trial['num_removed_experts']} experts"
        f" {trial['num_kept_neurons']:,} neurons {trial['vocab_size']:,} tokens: {trial['predicted_damage']:+.4f} predicted,"
        f" {trial['damage_after_tuning']:+.4f} ± {trial['standard_error_after_tuning']:.4f} after tuning"
        f"{'  <- chosen' if trial['chosen'] else ''}"
    )
