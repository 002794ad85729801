"""The one page of a run: what stands in the metrics, put into words, in a single HTML file that fetches nothing."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minigpts.quantization.groups import MEANINGS
from minigpts.reporting import style
from minigpts.reporting.captions import MISSING, NUMBERS, SPEECH, Number, at, decimal, flatten, percent, short, size, text
from minigpts.reporting.figures import Picture
from minigpts.reporting.summary import Metrics, child_of, findings
from minigpts.reporting.templates import template

TEMPLATE = "page.html.jinja"
STOPPED = {  # finetune's stop_reason, in words
    "recovered": "it had recovered",
    "plateau": "it no longer improved",
    "budget": "its budget of tokens was spent",
}
# metrics file: what the page calls it; those of a tuned parent or a file that there isn't are empty
WORST = 6  # prompts whose replies stand open on the page
EVALUATIONS = {"base": "parent", "tuned_parent": "tuned parent", "pruned": "pruned", "finetuned": "tuned", "exported": "file"}


@dataclass(frozen=True)
class Dropped:
    """What the vocabulary lost: a few tokens by name, and how many tokens there are of each reason."""

    examples: Sequence[str]
    reasons: Mapping[str, int]


@dataclass(frozen=True)
class Run:
    """All that the page shows. ``metrics`` holds each file of ``metrics/`` under its name without ``.json``."""

    metrics: Mapping[str, Metrics]
    parameters: Mapping[str, Any]
    pictures: Sequence[Picture]
    spoken: Mapping[str, Mapping[str, Any]]  # each evaluation's replies, as it wrote them; empty where it has none
    dropped: Dropped | None


TILES = (  # key of the evaluations, label, format
    ("num_parameters", "Parameters", short),
    ("checkpoint_bytes", "Weights file", size),
    ("bits_per_byte", "Bits per byte", decimal),
    ("acc", "Accuracy", percent),
)


def render(run: Run) -> str:
    """The page as HTML. Everything that comes from data is escaped; there are no scripts and nothing to fetch."""
    dataset = run.metrics["dataset"]
    width, height = style.pixels()
    return template(TEMPLATE).render(
        findings=findings(run.metrics["base"], child_of(run.metrics), run.metrics["tuned_parent"]),
        tiles=[_tile(run, *tile) for tile in TILES],
        columns=[EVALUATIONS[name] for name in _measured(run)],
        rows=[row for number in NUMBERS if (row := _row(run, number, _measured(run))) is not None],
        figures=[_figure(picture) for picture in run.pictures],
        width=width,
        height=height,
        facts=_facts(run),
        speakers=[EVALUATIONS[name] for name in _speaking(run)],
        speech=[row for number in SPEECH if (row := _row(run, number, _speaking(run))) is not None],
        worst=_conversations(run)[:WORST],
        others=_conversations(run)[WORST:],
        chats=[_spoken(example) for example in dataset.get("chats", {}).get("examples", [])],
        dropped=run.dropped,
        parameters=flatten(run.parameters),
        sources={facts.get("name", key): _source(facts) for key, facts in sorted(dataset.get("sources", {}).items())},
        leaks=_leaks(dataset.get("leak_check", {})),
        files=[(name, flatten(_without_chats(values))) for name, values in run.metrics.items()],
    )


def _measured(run: Run) -> list[str]:
    """The evaluations that there are, in the order of the columns."""
    return [name for name in EVALUATIONS if run.metrics[name]]


def _speaking(run: Run) -> list[str]:
    """Those of them whose speech was measured."""
    return [name for name in _measured(run) if run.spoken[name]]


def _values(run: Run, key: str, names: Sequence[str]) -> list[float | None]:
    return [at(run.metrics[name], key) for name in names]


def _facts(run: Run) -> list[str]:
    """Cuts and fine-tuning in sentences; what a stage left out of its metrics is left out here."""
    cut, words, tune = (run.metrics[name] for name in ("prune_neurons", "prune_embeddings", "finetune"))
    facts = []
    if "num_experts" in cut:
        experts = cut["num_removed_experts"]
        facts.append(f"{experts:,} of the {cut['num_experts']:,} experts of each mixture layer were cut.")
    elif "num_neurons" in cut and "num_removed_neurons" in cut:
        share = cut["num_removed_neurons"] / cut["num_neurons"]
        facts.append(f"{cut['num_removed_neurons']:,} of {cut['num_neurons']:,} MLP neurons were cut ({share:.1%}).")
    if cut.get("num_removed_layers"):
        among = "" if "num_experts" in cut else ", their neurons among these"
        facts.append(f"Whole layers cut{among}: {cut['num_removed_layers']:,}.")
    if cut.get("num_removed_key_value_heads"):
        heads = cut["num_removed_key_value_heads"]
        facts.append(f"Each layer that stayed lost {heads:,} of its key/value heads, with the query heads that read them.")
    if cut.get("num_zeroed_parameters"):
        facts.append(f"{cut['num_zeroed_parameters']:,} parameters that can't be removed were set to zero.")
    if "vocab_size_before" in words and "vocab_size_after" in words:
        facts.append(f"The vocabulary went from {words['vocab_size_before']:,} to {words['vocab_size_after']:,} tokens.")
    if "tokens" in tune and "steps" in tune:
        passes = f", {tune['epochs']:.2f} passes over the training text" if "epochs" in tune else ""
        facts.append(f"Fine-tuning read {tune['tokens']:,} tokens in {tune['steps']:,} steps{passes}.")
    if tune.get("stop_reason") in STOPPED:
        facts.append(f"It stopped because {STOPPED[tune['stop_reason']]}.")
    if tune.get("recovered_at_tokens") is not None:
        facts.append(f"It reached its parent's bits per byte on validation text after {tune['recovered_at_tokens']:,} tokens.")
    elif "recovered" in tune:
        facts.append("It did not reach its parent's bits per byte on validation text.")
    return [*facts, *_rounding(run.metrics["export"])]


def _rounding(export: Metrics) -> list[str]:
    """The exported file's formats and size, and which weights are in another format than their group's; nothing without a file."""
    if not export:
        return []
    formats = "; ".join(f"{MEANINGS[group]}: {', '.join(used)}" for group, used in export["formats"].items())
    totals = f"{export['bits_per_weight']:.2f} bits per weight, {size(export['megabytes'] * 1e6)} in all"
    facts = [f"The file has the weights in these formats: {formats}. That is {totals}."]
    if export["fallbacks"]:
        fallbacks = "; ".join(f"{reason} ({count:,} weights)" for reason, count in export["fallbacks"].items())
        facts.append(f"Weight matrices in another format than asked for: {fallbacks}.")
    return facts


def _tile(run: Run, key: str, label: str, show: Callable[[float], str]) -> dict[str, Any]:
    """A headline: the change from parent to child, large, and the three values below it."""
    values = _values(run, key, _measured(run))
    parent, child = values[0], values[-1]
    if parent is None or child is None:
        change = "not measured"
    elif key == "acc":
        change = f"{(child - parent) * 100:+.1f} points"
    else:
        change = f"{child / parent - 1:+.1%}" if parent else MISSING
    names = [EVALUATIONS[name] for name in _measured(run)]
    steps = [(name, MISSING if value is None else show(value)) for name, value in zip(names, values, strict=True)]
    return {"label": label, "change": change.replace("-", "−"), "steps": steps}


def _row(run: Run, number: Number, names: Sequence[str]) -> dict[str, Any] | None:
    """A row of a table with these evaluations as columns, or None for a number that none of them has."""
    values = _values(run, number.key, names)
    if all(value is None for value in values):
        return None
    errors = _values(run, number.stderr, names) if number.stderr else [None] * len(values)
    cells = [MISSING if value is None else number.show(value) for value in values]
    cells = [cell if error is None else f"{cell} ±\u00a0{error * 100:.1f}" for cell, error in zip(cells, errors, strict=True)]
    return {"label": number.label, "better": number.better, "meaning": number.meaning, "cells": cells}


def _conversations(run: Run) -> list[dict[str, Any]]:
    """Every model's reply to each of the domain's prompts, those first where the child says nothing, then where it loops."""
    names = _speaking(run)
    if not names:
        return []
    together = list(zip(*(run.spoken[name]["domain"] for name in names), strict=True))
    together.sort(key=lambda replies: (not replies[-1]["empty"], not replies[-1]["loops"], replies[-1]["ended"]))
    return [
        {
            "prompt": replies[0]["prompt"] + ("" if replies[0]["asks"] else " …"),
            "replies": [
                (EVALUATIONS[name], _one_paragraph(reply["reply"]), _flaw(reply))
                for name, reply in zip(names, replies, strict=True)
            ],
        }
        for replies in together
    ]


def _flaw(reply: Mapping[str, Any]) -> str:
    """What is wrong with the form of a reply; nothing where nothing is."""
    return "empty" if reply["empty"] else "loops" if reply["loops"] else ""


def _source(facts: Metrics) -> list[tuple[str, str]]:
    """What is known of a source but its name, which is the heading."""
    return [pair for pair in flatten(facts) if pair[0] != "name"]


def _leaks(check: Metrics) -> list[tuple[str, list[str]]]:
    """For each kind of text: documents that share a run with held-out text, what was dropped, and the leakage that is left."""
    found, dropped, leakage = (check.get(part, {}) for part in ("found", "dropped", "leakage"))
    return [
        (
            kind.replace("_", " "),
            [
                text(sum(found[kind].values())) if kind in found else "",
                text(dropped.get(kind)),
                f"{leakage[kind]:.1%}" if kind in leakage else "",
            ],
        )
        for kind in dict.fromkeys([*found, *dropped, *leakage])
    ]


def _spoken(chat: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """A chat in pieces, each with whether the assistant says it."""
    pieces, end = list[tuple[str, bool]](), 0
    for first, last in chat["loss_spans"]:
        pieces += [(chat["text"][end:first], False), (chat["text"][first:last], True)]
        end = last
    return [*pieces, (chat["text"][end:], False)]


def _without_chats(values: Metrics) -> dict[str, Any]:
    """The figures alone: the page shows the examples of chats elsewhere."""
    return {
        key: {name: found for name, found in value.items() if name != "examples"} if key == "chats" else value
        for key, value in values.items()
    }


def _one_paragraph(text: str) -> str:
    """A broken model may write nothing but line breaks: show them as signs instead of a page of white."""
    return text.replace("\n", "↵")


def _figure(picture: Picture) -> dict[str, str]:
    light, dark = (base64.b64encode(picture.png(theme)).decode("ascii") for theme in (style.LIGHT, style.DARK))
    return {"title": picture.title, "caption": picture.caption, "alt": picture.alt, "light": light, "dark": dark}
