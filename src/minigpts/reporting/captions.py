"""The numbers the page shows: how they print, and how to read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

MISSING = "–"


def whole(value: float) -> str:
    """A count: ``134,515,008``."""
    return f"{value:,.0f}"


def short(value: float) -> str:
    """A count in thousands, millions or billions: ``134.5 M``."""
    for unit, sign in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.1f}\u00a0{sign}"
    return f"{value:.0f}"


def size(value: float) -> str:
    """Bytes in decimal units: ``269.1 MB``."""
    return f"{value / 1e6:,.1f}\u00a0MB"


def percent(value: float) -> str:
    """A share: ``43.8%``."""
    return f"{value:.1%}"


def decimal(value: float) -> str:
    """A measurement: ``1.049``."""
    return f"{value:.3f}"


@dataclass(frozen=True)
class Number:
    """A row of the comparison: where it stands in the evaluations, how it prints, and how to read it."""

    key: str
    label: str
    show: Callable[[float], str]
    better: str  # "lower", "higher" or ""
    meaning: str
    stderr: str = ""  # the key of its standard error


NUMBERS = (
    Number("num_parameters", "parameters", short, "lower", "Numbers in the model; a matrix used at both its ends counts once."),
    Number(
        "num_nonzero_parameters",
        "nonzero parameters",
        short,
        "",
        "Parameters that aren't exactly 0; close to all of them where pruning removes instead of writing zeros.",
    ),
    Number("checkpoint_bytes", "weights file", size, "lower", "Bytes of model.safetensors, or of the whole exported file."),
    Number("vocab_size", "vocabulary", whole, "", "Tokens that the model can read and write."),
    Number("relative_size", "size relative to the parent", percent, "lower", "Parameters as a share of the parent's."),
    Number(
        "bits_per_byte",
        "bits per byte, test text",
        decimal,
        "lower",
        "How many bits the model needs, on average, to guess the next byte of domain text that nothing was fitted to. It doesn't"
        " depend on how the text is cut into tokens, so it compares across vocabularies.",
    ),
    Number(
        "validation_bits_per_byte",
        "bits per byte, validation text",
        decimal,
        "lower",
        "The same on the text that fine-tuning watches, of chats on what the assistant says; recovery is measured against the"
        " parent's.",
    ),
    Number(
        "assistant_bits_per_byte",
        "bits per byte, assistant's turns",
        decimal,
        "lower",
        "Of the test text's chats, what the assistant says alone: what tuning asks for.",
    ),
    Number(
        "perplexity",
        "perplexity",
        "{:.2f}".format,
        "lower",
        "Between how many tokens the model hesitates, on average, counted in the parent's tokens for all of them.",
    ),
    Number(
        "acc",
        "accuracy",
        percent,
        "higher",
        "Share of the multiple-choice questions where the right answer is the most probable one; ± is one standard error.",
        "acc_stderr",
    ),
    Number(
        "acc_norm",
        "accuracy, length-normalized",
        percent,
        "higher",
        "The same with each answer's log-probability divided by its length, so that short answers have no advantage.",
        "acc_norm_stderr",
    ),
    Number("num_questions", "questions", whole, "", "How many questions the accuracies are over."),
)


SPOKEN = (  # figures of replies, and how they print
    Number("empty_rate", "empty replies", percent, "lower", ""),
    Number("loop_rate", "replies that loop", percent, "lower", ""),
    Number("end_rate", "end by themselves", percent, "higher", ""),
    Number("distinct_2", "different word pairs", percent, "higher", ""),
    Number("length", "tokens a reply", "{:.0f}".format, "", ""),
)
SPEECH = (
    *(
        replace(number, key=f"speech.{asked}.{number.key}", label=f"{number.label}, {asked}")
        for asked in ("domain", "general", "sampled")
        for number in SPOKEN
    ),
    Number("speech.instructions", "instructions kept", percent, "higher", ""),
)


def at(metrics: Mapping[str, Any], key: str) -> Any:
    """What ``metrics`` has under a dotted name; None where it has nothing there."""
    found: Any = metrics
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def flatten(values: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested metrics as (dotted name, text) pairs, in the order of their names."""
    if isinstance(values, Mapping):
        return [pair for key in sorted(values) for pair in flatten(values[key], f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(values, list | tuple) and values and all(isinstance(value, str) for value in values):
        return [(prefix or "value", ", ".join(values))]
    if isinstance(values, list | tuple):
        return [
            pair for index, value in enumerate(values) for pair in flatten(value, f"{prefix}.{index}" if prefix else str(index))
        ]
    return [(prefix or "value", text(values))]


def text(value: Any) -> str:
    """Any value of a metrics file."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return whole(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
