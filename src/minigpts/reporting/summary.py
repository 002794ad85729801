"""The run in a dozen figures, and in sentences that say plainly what improved, what got worse and what isn't known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Metrics = Mapping[str, Any]

CHILD = ("acc", "acc_norm", "acc_stderr", "bits_per_byte", "checkpoint_bytes", "perplexity", "validation_bits_per_byte")


@dataclass(frozen=True)
class Finding:
    """One sentence of the verdict."""

    label: str
    text: str
    good: bool | None  # None: neither


def summarize(base: Metrics, finetuned: Metrics, tuned_parent: Metrics, finetune: Metrics) -> dict[str, Any]:
    """``metrics/summary.json``: the figures that ``dvc exp show`` and ``dvc metrics diff`` list.

    The child's own figures stand under their own names; ``size_reduction`` is a share of the parent's parameters, ratios are
    child over parent, deltas child minus parent. What can't be computed because a value is missing is null, which DVC leaves
    out of its tables; so is the comparison with the tuned parent where it wasn't tuned (``tuned_parent`` is empty).
    """
    size = _ratio(base, finetuned, "num_parameters")
    return {
        **{key: finetuned.get(key) for key in CHILD},
        "acc_delta": _delta(base, finetuned, "acc"),
        "acc_delta_to_tuned_parent": _delta(tuned_parent, finetuned, "acc"),
        "bits_per_byte_ratio": _ratio(base, finetuned, "bits_per_byte"),
        "perplexity_ratio": _ratio(base, finetuned, "perplexity"),
        "perplexity_over_tuned_parent": _ratio(tuned_parent, finetuned, "perplexity"),
        "recovered_at_tokens": finetune.get("recovered_at_tokens"),
        "size_reduction": None if size is None else 1 - size,
    }


def _ratio(parent: Metrics, child: Metrics, key: str) -> float | None:
    if parent.get(key) is None or child.get(key) is None or parent[key] == 0:
        return None
    return child[key] / parent[key]


def _delta(parent: Metrics, child: Metrics, key: str) -> float | None:
    if parent.get(key) is None or child.get(key) is None:
        return None
    return child[key] - parent[key]


def findings(base: Metrics, finetuned: Metrics, tuned_parent: Metrics) -> list[Finding]:
    """The verdict: size, text, both accuracies, and what the run doesn't tell.

    A child is called better or worse only than the parent tuned on as many tokens, where that was measured: tuning alone makes
    any model better on the text it is tuned on.
    """
    accuracies = [
        *_accuracy(base, finetuned, tuned_parent, "acc", "Accuracy"),
        *_accuracy(base, finetuned, tuned_parent, "acc_norm", "Length-normalized accuracy"),
    ]
    return [
        *_size(base, finetuned),
        *_text(base, finetuned, tuned_parent),
        *(accuracies or [Finding("Accuracy", "Not measured: there were no questions.", None)]),
        Finding("Not known", _unknown(bool(tuned_parent)), None),
    ]


def _size(base: Metrics, finetuned: Metrics) -> list[Finding]:
    parameters, size = _ratio(base, finetuned, "num_parameters"), _ratio(base, finetuned, "checkpoint_bytes")
    if parameters is None or size is None:
        return []
    text = f"{_change(parameters)} parameters and {_change(size)} bytes than the parent."
    return [Finding("Size", text, parameters < 1)]


def _text(base: Metrics, finetuned: Metrics, tuned_parent: Metrics) -> list[Finding]:
    ratio, tuned = (_ratio(parent, finetuned, "bits_per_byte") for parent in (base, tuned_parent))
    if ratio is None:
        return []
    child = finetuned["bits_per_byte"]
    text = f"{_change(ratio)} bits per byte on held-out text than the untouched parent ({base['bits_per_byte']:.3f} → {child:.3f})"
    if tuned is None:
        return [Finding("Text", f"{text}.", None if ratio <= 1 else False)]
    text += f", {_change(tuned)} than the parent tuned on as many tokens ({tuned_parent['bits_per_byte']:.3f})."
    return [Finding("Text", text, tuned <= 1)]


def _accuracy(base: Metrics, finetuned: Metrics, tuned_parent: Metrics, key: str, name: str) -> list[Finding]:
    delta, tuned = (_delta(parent, finetuned, key) for parent in (base, tuned_parent))
    if delta is None:
        return []
    text = f"{delta * 100:+.1f} points against the untouched parent ({base[key]:.1%} → {finetuned[key]:.1%})"
    decisive = delta
    if tuned is not None:
        text += f", {tuned * 100:+.1f} against the parent tuned on as many tokens ({tuned_parent[key]:.1%})"
        decisive = tuned
    stderr = finetuned.get(f"{key}_stderr")
    if stderr is not None:
        text += f"; one standard error is {stderr * 100:.1f}"
    within = stderr is not None and abs(decisive) <= stderr
    good = None if within or (tuned is None and delta > 0) else decisive >= 0
    return [Finding(name, f"{text}.".replace("-", "−"), good)]


def _change(ratio: float) -> str:
    """``12.3% fewer`` or ``12.3% more``, of a ratio to the parent's."""
    return f"{abs(1 - ratio):.1%} {'fewer' if ratio <= 1 else 'more'}"


def _unknown(tuned: bool) -> str:
    talk = "Whether it answers when asked: no figure here tells, so talk to it (make chat) before you use it."
    alone = "How much of the gain is tuning alone: the parent tuned on the same text gains too (tune_parent: true measures it). "
    return talk if tuned else alone + talk
