"""The run in a dozen figures, and in sentences that say plainly what improved, what got worse and what isn't known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from minigpts.reporting import captions

Metrics = Mapping[str, Any]

CHILD = ("acc", "acc_norm", "acc_stderr", "bits_per_byte", "perplexity", "validation_bits_per_byte")
SPOKEN = ("empty_rate", "end_rate", "loop_rate")  # of the replies to the domain's prompts


@dataclass(frozen=True)
class Finding:
    """One sentence of the verdict."""

    label: str
    text: str
    good: bool | None  # None: neither


def child_of(metrics: Mapping[str, Metrics]) -> Metrics:
    """The child's figures among all metrics files by name: the exported file's, or the checkpoint's where none was exported."""
    return metrics["exported"] or metrics["finetuned"]


def summarize(metrics: Mapping[str, Metrics]) -> dict[str, Any]:
    """``metrics/summary.json``: the figures that ``dvc exp show`` and ``dvc metrics diff`` list.

    ``metrics`` holds each file of ``metrics/`` under its name without ``.json``. The child is the exported file where there is
    one, else the tuned checkpoint, and its own figures have their own names. ``megabytes`` are 10^6 bytes of that file (of the
    weights file for a checkpoint) and ``bytes_reduction`` is what it saves as a share of the parent's weights file, whereas
    ``size_reduction`` is a share of the parent's parameters. Ratios are child over parent, deltas child minus parent. What
    can't be computed because a value is missing is null, which DVC leaves out of its tables; so is the comparison with the
    tuned parent where it wasn't tuned (its metrics are empty).
    """
    base, child, tuned_parent = metrics["base"], child_of(metrics), metrics["tuned_parent"]
    num_bytes = child.get("checkpoint_bytes")
    return {
        **{key: child.get(key) for key in CHILD},
        **{key: captions.at(child, f"speech.domain.{key}") for key in SPOKEN},
        "instructions": captions.at(child, "speech.instructions"),
        "acc_delta": _delta(base, child, "acc"),
        "acc_delta_to_tuned_parent": _delta(tuned_parent, child, "acc"),
        "bits_per_byte_ratio": _ratio(base, child, "bits_per_byte"),
        "bytes_reduction": _reduction(base, child, "checkpoint_bytes"),
        "megabytes": None if num_bytes is None else num_bytes / 1e6,
        "perplexity_ratio": _ratio(base, child, "perplexity"),
        "perplexity_over_tuned_parent": _ratio(tuned_parent, child, "perplexity"),
        "recovered_at_tokens": metrics["finetune"].get("recovered_at_tokens"),
        "size_reduction": _reduction(base, child, "num_parameters"),
    }


def _reduction(parent: Metrics, child: Metrics, key: str) -> float | None:
    ratio = _ratio(parent, child, key)
    return None if ratio is None else 1 - ratio


def _ratio(parent: Metrics, child: Metrics, key: str) -> float | None:
    if parent.get(key) is None or child.get(key) is None or parent[key] == 0:
        return None
    return child[key] / parent[key]


def _delta(parent: Metrics, child: Metrics, key: str) -> float | None:
    if parent.get(key) is None or child.get(key) is None:
        return None
    return child[key] - parent[key]


def findings(base: Metrics, child: Metrics, tuned_parent: Metrics) -> list[Finding]:
    """The verdict: size, text, both accuracies, speech, and what the run doesn't tell.

    A child is called better or worse only than the parent tuned on as many tokens, where that was measured: tuning alone makes
    any model better on the text it is tuned on.
    """
    accuracies = [
        *_accuracy(base, child, tuned_parent, "acc", "Accuracy"),
        *_accuracy(base, child, tuned_parent, "acc_norm", "Length-normalized accuracy"),
    ]
    return [
        *_size(base, child),
        *_text(base, child, tuned_parent),
        *(accuracies or [Finding("Accuracy", "Not measured: there were no questions.", None)]),
        *_speech(base, child, tuned_parent),
        Finding("Not known", _unknown(bool(tuned_parent), "speech" in child), None),
    ]


def _size(base: Metrics, child: Metrics) -> list[Finding]:
    parameters, size = _ratio(base, child, "num_parameters"), _ratio(base, child, "checkpoint_bytes")
    if parameters is None or size is None:
        return []
    megabytes = " → ".join(captions.size(model["checkpoint_bytes"]) for model in (base, child))
    text = f"{_change(parameters)} parameters and {_change(size)} bytes than the parent ({megabytes})."
    return [Finding("Size", text, size < 1)]


def _text(base: Metrics, child: Metrics, tuned_parent: Metrics) -> list[Finding]:
    ratio, tuned = (_ratio(parent, child, "bits_per_byte") for parent in (base, tuned_parent))
    if ratio is None:
        return []
    bits = child["bits_per_byte"]
    text = f"{_change(ratio)} bits per byte on held-out text than the untouched parent ({base['bits_per_byte']:.3f} → {bits:.3f})"
    if tuned is None:
        return [Finding("Text", f"{text}.", None if ratio <= 1 else False)]
    text += f", {_change(tuned)} than the parent tuned on as many tokens ({tuned_parent['bits_per_byte']:.3f})."
    return [Finding("Text", text, tuned <= 1)]


def _accuracy(base: Metrics, child: Metrics, tuned_parent: Metrics, key: str, name: str) -> list[Finding]:
    delta, tuned = (_delta(parent, child, key) for parent in (base, tuned_parent))
    if delta is None:
        return []
    text = f"{delta * 100:+.1f} points against the untouched parent ({base[key]:.1%} → {child[key]:.1%})"
    decisive = delta
    if tuned is not None:
        text += f", {tuned * 100:+.1f} against the parent tuned on as many tokens ({tuned_parent[key]:.1%})"
        decisive = tuned
    stderr = child.get(f"{key}_stderr")
    if stderr is not None:
        text += f"; one standard error is {stderr * 100:.1f}"
    within = stderr is not None and abs(decisive) <= stderr
    good = None if within or (tuned is None and delta > 0) else decisive >= 0
    return [Finding(name, f"{text}.".replace("-", "−"), good)]


def _speech(base: Metrics, child: Metrics, tuned_parent: Metrics) -> list[Finding]:
    """What the child leaves without a reply and where it loops: worse where it does either more often than its comparison."""
    compared, name = (tuned_parent, "the tuned parent") if "speech" in tuned_parent else (base, "the untouched parent")
    if "speech" not in child or "speech" not in compared:
        return []
    own, others = child["speech"]["domain"], compared["speech"]["domain"]
    text = (
        f"On the domain's prompts {own['empty_rate']:.1%} of its replies are empty and {own['loop_rate']:.1%} loop"
        f" ({name}: {others['empty_rate']:.1%} and {others['loop_rate']:.1%})"
    )
    kept, before = (captions.at(model, "speech.instructions") for model in (child, base))
    if kept is not None and before is not None:
        text += f"; it keeps {kept:.1%} of the checkable instructions (the untouched parent: {before:.1%})"
    worse = any(own[rate] > others[rate] for rate in ("empty_rate", "loop_rate"))
    return [Finding("Speech", f"{text}.", False if worse else None if own["empty_rate"] else True)]


def _change(ratio: float) -> str:
    """``12.3% fewer`` or ``12.3% more``, of a ratio to the parent's."""
    return f"{abs(1 - ratio):.1%} {'fewer' if ratio <= 1 else 'more'}"


def _unknown(tuned: bool, spoke: bool) -> str:
    what = "what it says is true" if spoke else "it answers when asked"
    talk = f"Whether {what}: no figure here tells, so talk to it (make chat) before you use it."
    alone = "How much of the gain is tuning alone: the parent tuned on the same text gains too (tune_parent: true measures it). "
    return talk if tuned else alone + talk
