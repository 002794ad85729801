"""The run in a dozen numbers, and in sentences that say plainly what got better and what got worse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Metrics = Mapping[str, Any]

HEADLINES = (
    "acc",
    "acc_norm",
    "bits_per_byte",
    "checkpoint_bytes",
    "num_nonzero_parameters",
    "num_parameters",
    "perplexity",
    "validation_bits_per_byte",
    "vocab_size",
)


@dataclass(frozen=True)
class Finding:
    """One sentence of the verdict."""

    text: str
    good: bool | None  # None: neither


def summarize(base: Metrics, finetuned: Metrics, finetune: Metrics) -> dict[str, Any]:
    """``metrics/summary.json`` from the evaluations of parent and child and the fine-tuning's own metrics.

    Reductions are shares of the parent; ratios are child over parent; deltas are child minus parent; ``acc_stderr`` is the
    child's. What can't be computed because a value is missing is null, which DVC leaves out of its tables.
    """
    return {
        "size_reduction": _reduction(base, finetuned, "num_parameters"),
        "bytes_reduction": _reduction(base, finetuned, "checkpoint_bytes"),
        "bits_per_byte_ratio": _ratio(base, finetuned, "bits_per_byte"),
        "perplexity_ratio": _ratio(base, finetuned, "perplexity"),
        "acc_delta": _delta(base, finetuned, "acc"),
        "acc_norm_delta": _delta(base, finetuned, "acc_norm"),
        "acc_stderr": finetuned.get("acc_stderr"),
        "acc_norm_stderr": finetuned.get("acc_norm_stderr"),
        "recovered_at_tokens": finetune.get("recovered_at_tokens"),
        "parent": {key: base[key] for key in HEADLINES if key in base},
        "child": {key: finetuned[key] for key in HEADLINES if key in finetuned},
    }


def _ratio(base: Metrics, finetuned: Metrics, key: str) -> float | None:
    if base.get(key) is None or finetuned.get(key) is None or base[key] == 0:
        return None
    return finetuned[key] / base[key]


def _reduction(base: Metrics, finetuned: Metrics, key: str) -> float | None:
    ratio = _ratio(base, finetuned, key)
    return None if ratio is None else 1 - ratio


def _delta(base: Metrics, finetuned: Metrics, key: str) -> float | None:
    if base.get(key) is None or finetuned.get(key) is None:
        return None
    return finetuned[key] - base[key]


def findings(summary: Metrics) -> list[Finding]:
    """The verdict: size, bits per byte, both accuracies. A loss is called a loss."""
    accuracy = [_accuracy(summary, "acc", "Accuracy"), _accuracy(summary, "acc_norm", "Length-normalized accuracy")]
    measured = [finding for finding in accuracy if finding is not None]
    return [
        *_size(summary),
        *_bits_per_byte(summary),
        *(measured or [Finding("Accuracy was not measured: there were no questions.", None)]),
    ]


def _size(summary: Metrics) -> list[Finding]:
    share, bytes_share = summary["size_reduction"], summary["bytes_reduction"]
    if share is None or bytes_share is None:
        return []
    text = f"{abs(share):.1%} {'fewer' if share >= 0 else 'more'} parameters and {abs(bytes_share):.1%} "
    return [Finding(text + f"{'fewer' if bytes_share >= 0 else 'more'} bytes than the parent.", share > 0)]


def _bits_per_byte(summary: Metrics) -> list[Finding]:
    ratio = summary["bits_per_byte_ratio"]
    if ratio is None:
        return []
    parent, child = summary["parent"]["bits_per_byte"], summary["child"]["bits_per_byte"]
    change = f"{abs(1 - ratio):.1%} {'fewer' if ratio <= 1 else 'more'} bits per byte on held-out text ({parent:.3f} → {child:.3f})"
    return [Finding(f"{change}: it predicts the domain {'better' if ratio <= 1 else 'worse'} than its parent.", ratio <= 1)]


def _accuracy(summary: Metrics, key: str, name: str) -> Finding | None:
    delta, stderr = summary[f"{key}_delta"], summary[f"{key}_stderr"]
    if delta is None:
        return None
    change = f"({summary['parent'][key]:.1%} → {summary['child'][key]:.1%})"
    if delta >= 0:
        return Finding(f"{name} held: {delta * 100:+.1f} points {change}.", True)
    against = ""
    if stderr is not None:
        against = f", {'within' if -delta <= stderr else 'more than'} one standard error ({stderr * 100:.1f})"
    return Finding(f"{name} fell by {-delta * 100:.1f} points {change}{against}.", False)
