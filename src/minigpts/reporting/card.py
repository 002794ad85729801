"""The model card of an exported file: what it is, how to run it, and the run's figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from minigpts.exporting.general_section import Provenance
from minigpts.model import uneven_widths
from minigpts.quantization.groups import MEANINGS
from minigpts.reporting.captions import MISSING, NUMBERS, SPEECH, Number, at, short, size
from minigpts.reporting.templates import template

Metrics = Mapping[str, Any]

SPOKEN = ("speech.domain.empty_rate", "speech.domain.loop_rate", "speech.instructions")  # what the card says of its replies


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
        for number in (*NUMBERS, *(number for number in SPEECH if number.key in SPOKEN))
        if any(at(metrics, number.key) is not None for metrics in columns.values())
    ]
    return template("card.md.jinja").render(
        file=export["file"],
        formats={MEANINGS[group]: ", ".join(used) for group, used in export["formats"].items()},
        sources=list(sources),
        origin=origin,
        columns=list(columns),
        rows=rows,
        megabytes=size(1e6 * export["megabytes"]),
        onnx_megabytes=size(1e6 * export["onnx_megabytes"]) if "onnx_megabytes" in export else None,
        parameters=short(origin.num_parameters),
        parent_parameters=short(origin.parent_parameters),
        checkpoint=checkpoint.as_posix(),
        ships_code=(checkpoint / uneven_widths.FILE).exists(),
    )


def _cell(number: Number, metrics: Metrics) -> str:
    """A figure as it prints, with its standard error where it has one."""
    if at(metrics, number.key) is None:
        return MISSING
    error = f" ± {number.show(metrics[number.stderr])}" if metrics.get(number.stderr) is not None else ""
    return f"{number.show(at(metrics, number.key))}{error}"
