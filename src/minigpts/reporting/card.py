"""The model card of an exported file: what it is, how to run it, and the run's figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from minigpts.exporting.general_section import Provenance
from minigpts.model import uneven_widths
from minigpts.quantization.groups import MEANINGS
from minigpts.reporting.captions import MISSING, NUMBERS, Number, short, size
from minigpts.reporting.templates import template

Metrics = Mapping[str, Any]


def render(
    export: Metrics, origin: Provenance, models: Mapping[str, Metrics], sources: Iterable[Mapping[str, str]], checkpoint: Path
) -> str:
    """The card as Markdown, with the header that the hub reads.

    ``export`` is what ``metrics/export.json`` will hold, ``models`` each model's metrics by name, parent first (one that wasn't
    measured is empty), ``sources`` the text's (name, version, licence, acknowledgement), ``checkpoint`` the folder that the file
    was made from.
    """
    columns = {name: metrics for name, metrics in models.items() if metrics}
    rows = [
        (number.label, [_cell(number, metrics) for metrics in columns.values()])
        for number in NUMBERS
        if any(metrics.get(number.key) is not None for metrics in columns.values())
    ]
    return template("card.md.jinja").render(
        file=export["file"],
        formats={MEANINGS[group]: ", ".join(used) for group, used in export["formats"].items()},
        sources=list(sources),
        origin=origin,
        columns=list(columns),
        rows=rows,
        megabytes=size(1e6 * export["megabytes"]),
        parameters=short(origin.num_parameters),
        parent_parameters=short(origin.parent_parameters),
        checkpoint=checkpoint.as_posix(),
        ships_code=(checkpoint / uneven_widths.FILE).exists(),
    )


def _cell(number: Number, metrics: Metrics) -> str:
    """A figure as it prints, with its standard error where it has one."""
    if metrics.get(number.key) is None:
        return MISSING
    error = f" ± {number.show(metrics[number.stderr])}" if metrics.get(number.stderr) is not None else ""
    return f"{number.show(metrics[number.key])}{error}"
