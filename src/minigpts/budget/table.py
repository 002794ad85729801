"""The plan as a table: what was measured of each resource, and what the plan takes of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from minigpts.budget.accounting import Outline
from minigpts.budget.curves import Curves
from minigpts.budget.search import Choice, Space
from minigpts.model.weights import num_parameters


def points(space: Space, curves: Curves) -> Iterator[dict[str, Any]]:
    """The measured points as rows."""
    whole = space.depths[0]
    uncut = Outline(whole.layers, space.num_groups, whole.widths, int(space.vocabulary_sizes[-1]))
    before = num_parameters(space.child(uncut))

    def row(kind: str, level: float, size: float, damage: float) -> dict[str, Any]:
        return {"kind": kind, "level": round(level), "bytes_freed": round(size), "damage": damage, "chosen": False}

    def saved(outline: Outline) -> int:
        return (before - num_parameters(space.child(outline))) * space.dtype.itemsize

    for units, damage in zip(curves.vocabulary.units, curves.vocabulary.damage, strict=True):
        yield row("vocabulary", units, units * space.per_row * space.dtype.itemsize, damage)
    for share, damage in zip(curves.neurons.units, curves.neurons.damage, strict=True):
        number = round(share * sum(whole.widths))
        yield row("MLP", number, number * space.per_neuron * space.dtype.itemsize, damage)
    for units, damage in zip(curves.heads.units, curves.heads.damage, strict=True):
        yield row("heads", units, saved(replace(uncut, num_groups=space.num_groups - round(units))), damage)
    for units, damage in zip(curves.layers.units, curves.layers.damage, strict=True):
        depth = space.depths[round(units)]
        yield row("layers", units, saved(replace(uncut, layers=depth.layers, widths=depth.widths)), damage)


def chosen(
    space: Space, curves: Curves, choice: Choice, outline: Outline, freed_bytes: Mapping[str, int]
) -> Iterator[dict[str, Any]]:
    """What was chosen of each kind, as rows; its bytes are those that it frees after the others."""
    uncut = sum(space.depths[choice.num_removed_layers].widths)
    removed = uncut - sum(outline.widths)
    tokens = int(space.vocabulary_sizes[-1]) - outline.num_rows
    levels = {
        "vocabulary": (tokens, curves.vocabulary.at(tokens)),
        "MLP": (removed, curves.neurons.at(removed / uncut)),
        "heads": (choice.num_removed_groups, curves.heads.at(choice.num_removed_groups)),
        "layers": (choice.num_removed_layers, curves.layers.at(choice.num_removed_layers)),
    }
    for kind, (level, damage) in levels.items():
        yield {"kind": kind, "level": level, "bytes_freed": freed_bytes[kind], "damage": float(damage), "chosen": True}


def text(rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> str:
    """The rows as aligned text, and a line that sums them up."""
    lines = [f"{'kind':<12}{'removed':>10}{'MB freed':>12}{'bits/byte':>12}"]
    for row in rows:
        mark = "  <- chosen" if row["chosen"] else ""
        lines.append(f"{row['kind']:<12}{row['level']:>10,}{row['bytes_freed'] / 1e6:>12.3f}{row['damage']:>+12.4f}{mark}")
    lines.append(
        f"planned: {metrics['num_parameters']:,} parameters, {metrics['checkpoint_bytes']:,} bytes;"
        f" {metrics['parent_bits_per_byte']:.4f} bits per byte before, {metrics['predicted_damage']:+.4f} predicted,"
        f" {metrics['measured_damage']:+.4f} measured"
    )
    return "\n".join(lines)
