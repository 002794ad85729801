"""What lies beside the file: Ollama's ``Modelfile`` and the model card, ``README.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpts.exporting.chat_template import ollama_template, turn_end
from minigpts.exporting.general_section import Provenance
from minigpts.model import checkpoint, uneven_widths
from minigpts.reporting.captions import MISSING, NUMBERS, Number, short, size

CARD = "card.md.jinja"
MAX_CONTEXT = 4096  # tokens that Ollama keeps room for: more memory than a small model itself needs
TEMPERATURE, REPEAT_PENALTY = 0.3, 1.1  # small models wander and repeat themselves at the usual 0.8 and 1.0


@dataclass(frozen=True)
class Run:
    """The figures of a run that the card shows. Each of ``columns`` is a model's metrics; one that wasn't measured is empty."""

    origin: Provenance
    file: str
    file_bytes: int
    formats: Mapping[str, str]  # block formats by group, as words
    columns: Mapping[str, Mapping[str, Any]]  # by the model's name, parent first
    sources: Sequence[Mapping[str, str]]  # of the text: name, version, licence, acknowledgement


def modelfile(directory: Path, file: str, context_length: int) -> str:
    """Ollama's description of ``file``: template and stop token from the checkpoint's chat template, where it has one."""
    tokenizer = checkpoint.load_fast_tokenizer(directory)
    template, end = ollama_template(directory), turn_end(directory, tokenizer)
    lines = [f"FROM ./{file}"]
    if template is not None:
        lines += [f'TEMPLATE """{template}"""']
    if end is not None:
        lines += [f'PARAMETER stop "{tokenizer.id_to_token(end)}"']
    parameters = {"temperature": TEMPERATURE, "repeat_penalty": REPEAT_PENALTY, "num_ctx": min(context_length, MAX_CONTEXT)}
    return "\n".join([*lines, *(f"PARAMETER {name} {value}" for name, value in parameters.items())]) + "\n"


def card(run: Run, checkpoint_folder: Path) -> str:
    """The model card as Markdown, with the header that the hub reads."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    columns = {name: metrics for name, metrics in run.columns.items() if metrics}
    rows = [
        (number.label, [_cell(number, metrics) for metrics in columns.values()])
        for number in NUMBERS
        if any(metrics.get(number.key) is not None for metrics in columns.values())
    ]
    return environment.get_template(CARD).render(
        run=run,
        origin=run.origin,
        columns=list(columns),
        rows=rows,
        megabytes=size(run.file_bytes),
        parameters=short(run.origin.num_parameters),
        parent_parameters=short(run.origin.parent_parameters),
        checkpoint=checkpoint_folder.as_posix(),
        ships_code=(checkpoint_folder / uneven_widths.FILE).exists(),
    )


def _cell(number: Number, metrics: Mapping[str, Any]) -> str:
    """A figure as it prints, with its standard error where it has one."""
    if metrics.get(number.key) is None:
        return MISSING
    error = f" ± {number.show(metrics[number.stderr])}" if metrics.get(number.stderr) is not None else ""
    return f"{number.show(metrics[number.key])}{error}"
