"""The pictures of a run. Each function takes plain data and gives a :class:`Picture`, which draws itself in a theme."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from minigpts.reporting import style
from minigpts.reporting.style import LIGHT, Draw, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Picture:
    """A figure with the words that go with it."""

    name: str  # of the file, without `.png`
    title: str
    caption: str  # one sentence, plain words
    alt: str  # what a reader who can't see it should know
    draw: Draw

    def png(self, theme: Theme = LIGHT) -> bytes:
        """The figure as PNG bytes; the same data give the same bytes."""
        return style.render(self.title, self.draw, theme)


def neuron_magnitudes(magnitudes: Sequence[np.ndarray], threshold: float | None) -> Picture:
    """Each layer's neurons in order of their mean |activation|, all layers pooled, and the threshold ε; None: it chose nothing."""
    pooled = np.concatenate(magnitudes)
    below = "" if threshold is None else f"{np.mean(pooled <= threshold):.1%}"

    def draw(axes: Axes, theme: Theme) -> None:
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import ListedColormap, Normalize

        depths = ListedColormap(colormaps["viridis"](np.linspace(*theme.depth, len(magnitudes))))
        for layer, values in enumerate(magnitudes):
            axes.plot(*_sorted_curve(values), color=depths(layer), linewidth=0.8)
        axes.plot(*_sorted_curve(pooled), color=theme.ink, linewidth=2.4, label="all layers")
        if threshold:
            axes.axhline(threshold, color=theme.cut, linestyle="--", label=f"ε = {threshold:g}: {below} at or below")
        axes.set_yscale("log", nonpositive="mask")
        axes.set_xlim(0, 100)
        axes.set_xlabel("neurons, quietest first (% of the layer)")
        axes.set_ylabel("mean |activation|")
        axes.legend(loc="upper left")
        scale = ScalarMappable(Normalize(-0.5, len(magnitudes) - 0.5), depths)
        bar = axes.figure.colorbar(scale, ax=axes, label="layer", pad=0.02, aspect=28)
        bar.set_ticks(_layer_ticks(len(magnitudes)))
        bar.outline.set_visible(False)  # type: ignore[operator]

    decided = "the budget's plan decided how many go, not a threshold"
    if threshold is not None:
        decided = f"what lies on or under the dashed line counts as quiet: {below} of {pooled.size:,} neurons at ε = {threshold:g}"
    return Picture(
        "neuron_magnitudes",
        "How loud each neuron is",
        f"Every MLP neuron's mean absolute activation over the calibration text, one thin line a layer; {decided}.",
        f"Sorted curves of mean absolute activation, one for each of {len(magnitudes)} layers, on a logarithmic scale. Medians run"
        f" from {min(np.median(layer) for layer in magnitudes):.2g} to {max(np.median(layer) for layer in magnitudes):.2g};"
        f" {decided}.",
        draw,
    )


def _sorted_curve(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percent of the neurons, and their values in order."""
    return (np.arange(values.size) + 0.5) / values.size * 100, np.sort(values)


def _layer_ticks(count: int) -> list[int]:
    return list(range(0, count, max(1, -(-count // 8))))


def expert_contributions(contributions: Sequence[np.ndarray]) -> Picture:
    """What each expert of each mixture layer writes for the domain's text, squared, as a share of its layer's, in order."""
    shares = [np.sort(layer / layer.sum())[::-1] for layer in contributions]
    half = [1 + int(np.searchsorted(np.cumsum(layer), 0.5)) for layer in shares]

    def draw(axes: Axes, theme: Theme) -> None:
        for layer in shares:
            axes.plot(np.arange(1, len(layer) + 1), 100 * np.cumsum(layer), color=theme.child, linewidth=0.8)
        axes.set(xlabel="experts, largest contribution first", ylabel="share of the layer's output (%)", ylim=(0, 100))

    return Picture(
        "expert_contributions",
        "How much each expert writes",
        f"The squares of what each writes for the calibration text, summed from the largest on, one line a layer:"
        f" {_span(half)} experts are half of it.",
        f"Rising curves for {len(shares)} layers, of up to {max(map(len, shares))} experts.",
        draw,
    )


def token_frequencies(counts: np.ndarray, embedding_threshold: float | None, num_planned: int | None = None) -> Picture:
    """How often each token occurs against its rank, and which are kept for their count. ``counts``: (vocab_size,).

    What decides is ``embedding_threshold``, a relative frequency, or the budget's plan, which keeps the ``num_planned`` most
    frequent.
    """
    ordered = np.sort(counts)[::-1]
    occurring, total = int(np.count_nonzero(ordered)), int(ordered.sum())
    never = ordered.size - occurring
    if embedding_threshold is None:
        kept, cut, line = min(num_planned or 0, occurring), "that the budget's plan keeps", 0.0
    else:
        line = embedding_threshold * total
        kept, cut = int(np.count_nonzero(ordered > line)), "above the cut"

    def draw(axes: Axes, theme: Theme) -> None:
        axes.plot(np.arange(1, occurring + 1), ordered[:occurring], color=theme.child)
        axes.set(xscale="log", yscale="log", xlim=(1, ordered.size), xlabel="token's rank", ylabel="times in the text counted")
        axes.set_ylim(bottom=0.7)
        axes.axvspan(kept + 0.5, ordered.size, color=theme.cut, alpha=0.22, linewidth=0)
        axes.axvline(kept + 0.5, color=theme.cut, linestyle="--")
        if line > 0:
            axes.axhline(line, color=theme.cut, linestyle=":", linewidth=1.2)
        text = f"{kept:,} tokens {cut}\n{occurring - kept:,} others that occur\n{never:,} never occur"
        axes.text(0.04, 0.06, text, transform=axes.transAxes, linespacing=1.5)

    return Picture(
        "token_frequencies",
        "How often each token occurs",
        f"Of the parent's {ordered.size:,} tokens {never:,} ({never / ordered.size:.1%}) never occur in the text counted; the"
        " shaded ones are removed, unless the tokenizer needs them to build a token that is kept.",
        f"Rank and frequency of tokens on logarithmic scales, falling from {ordered[0]:,} occurrences to one at rank {occurring:,}."
        f" {kept:,} tokens {cut}, {occurring - kept:,} others occur, {never:,} never occur.",
        draw,
    )


def layer_widths(widths: Sequence[int], parent_widths: Sequence[int], unit: str = "MLP neurons") -> Picture:
    """MLP neurons, or experts, of each layer before and after; 0 after for a layer that is gone."""
    kept = sum(widths) / sum(parent_widths)
    staying = [width for width in widths if width]
    child = _span(staying) if len(staying) == len(widths) else f"{_span(staying)} in the {len(staying)} that stay"

    def draw(axes: Axes, theme: Theme) -> None:
        layers = np.arange(len(widths))
        axes.bar(layers, parent_widths, width=0.86, color=theme.parent, alpha=0.55, label="parent")
        axes.bar(layers, widths, width=0.86, color=theme.child, label="child")
        axes.set(xlabel="layer", ylabel=unit, xticks=_layer_ticks(len(widths)))
        axes.set_ylim(0, max(parent_widths) * 1.18)
        axes.grid(visible=False, axis="x")
        axes.legend(loc="upper right", ncols=2)

    return Picture(
        "layer_widths",
        "How wide each layer is",
        f"Each layer's {unit} before and after the cut: {sum(widths):,} of {sum(parent_widths):,} stay ({kept:.1%}).",
        f"Bars for {len(widths)} layers. The parent has {_span(parent_widths)} {unit} a layer, the child {child}.",
        draw,
    )


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def recovery(
    tokens: Sequence[int],
    bits_per_byte: Sequence[float],
    parent_bits_per_byte: float,
    recovered_at_tokens: int | None,
    acc_norm: Sequence[float] = (),
    parent_acc_norm: float | None = None,
    tuned_parent_bits_per_byte: float | None = None,
) -> Picture:
    """Validation bits per byte over the tokens of fine-tuning, against the parent's and the tuned parent's; below it accuracy."""

    def draw(axes: Axes, theme: Theme) -> None:
        thousands = np.asarray(tokens) / 1000
        axes.plot(thousands, bits_per_byte, color=theme.child, marker="o", markersize=4.5, label="child")
        axes.axhline(parent_bits_per_byte, color=theme.parent, linestyle="--", label="parent")
        if tuned_parent_bits_per_byte is not None:
            axes.axhline(tuned_parent_bits_per_byte, color=theme.ink, linestyle=":", label="tuned parent")
        if recovered_at_tokens is not None and recovered_at_tokens in tokens:
            point = list(tokens).index(recovered_at_tokens)
            where = (thousands[point], bits_per_byte[point])
            axes.plot(*where, "*", color=theme.cut, markersize=14, label=f"recovered at {recovered_at_tokens / 1000:,.0f}k tokens")
        axes.set_ylabel("bits per byte")
        axes.margins(y=0.12)
        axes.figure.legend(loc="outside lower center", ncols=3)  # on no line, wherever they go
        lowest = axes
        if acc_norm:
            rows = axes.figure.add_gridspec(2, 1, height_ratios=(3, 2))  # type: ignore[union-attr]
            axes.set_subplotspec(rows[0])
            axes.tick_params(labelbottom=False)
            lowest = axes.figure.add_subplot(rows[1], sharex=axes)
            lowest.plot(thousands, np.multiply(acc_norm, 100), color=theme.child, marker="o", markersize=4.5)
            if parent_acc_norm is not None:
                lowest.axhline(parent_acc_norm * 100, color=theme.parent, linestyle="--")
            lowest.set_ylabel("accuracy (%)")
            lowest.margins(y=0.2)
        lowest.set_xlabel("tokens of fine-tuning (thousands)")

    below, answers = "", ""
    if acc_norm:
        below = ", and the share of validation questions it gets right"
        answers = f" Of the validation questions it gets {acc_norm[0]:.0%} right before tuning and {acc_norm[-1]:.0%} after."
    end = "has not recovered" if recovered_at_tokens is None else f"recovered after {recovered_at_tokens:,} tokens"
    return Picture(
        "recovery",
        "How fast it recovers",
        f"Bits per byte on the validation text while the child is tuned (lower is better){below}: it {end}. The lowest point is"
        " kept, unless answers were lost on the way.",
        f"Validation bits per byte go from {bits_per_byte[0]:.3f} to {bits_per_byte[-1]:.3f} over {tokens[-1]:,} tokens; the"
        f" parent stands at {parent_bits_per_byte:.3f}. The child {end}.{answers}",
        draw,
    )


def where_the_bytes_went(models: Mapping[str, Mapping[str, int]]) -> Picture:
    """Bytes by part of the model, side by side: of the parent, first, of the tuned checkpoint, and of the file made from it."""
    (parent, *_, child), parts = models.values(), list(next(iter(models.values())))

    def draw(axes: Axes, theme: Theme) -> None:
        places, height = np.arange(len(parts)), 0.8 / len(models)
        unit, label = (1e6, "MB") if max(parent.values()) >= 1e6 else (1e3, "kB")
        for row, (name, sizes) in enumerate(models.items()):
            shift, color = (row - (len(models) - 1) / 2) * height, theme.parent if row == 0 else theme.child
            bars = axes.barh(places + shift, [sizes[part] / unit for part in parts], height * 0.9, label=name, color=color)
            for bar in bars:
                bar.set_alpha(0.55 if 0 < row < len(models) - 1 else 1.0)  # what lies between parent and child is pale
            axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8.5 if len(models) < 3 else 7.5)
        axes.set_yticks(places, [part.replace(" and ", "\nand ") for part in parts])
        axes.invert_yaxis()
        axes.set_xlabel(label)
        axes.margins(x=0.14)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.legend(loc="lower right")

    saved = {part: parent[part] - child[part] for part in parts}
    most = max(parts, key=saved.__getitem__)
    whole = sum(saved.values())
    share = f"{saved[most] / whole:.0%} of what was saved came from the {most}" if whole > 0 else "nothing was saved"
    tokenizer = " A file's tokenizer and header count with the rest." if len(models) > 2 else ""
    return Picture(
        "where_the_bytes_went",
        "Where the bytes went",
        f"Bytes by part of the model, of {_listed(list(models))}: {share}.{tokenizer}",
        f"Bytes by part, of {_listed(list(models))}: "
        + "; ".join(f"{part} {_listed([f'{sizes[part]:,}' for sizes in models.values()])}" for part in parts)
        + ".",
        draw,
    )


def _listed(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return f"{', '.join(words[:-1])} and {words[-1]}"


def plan(table: Sequence[Mapping[str, str]]) -> Picture:
    """What removing each resource alone would cost, and what the budget takes of each.

    ``table`` is ``metrics/plots/plan.csv`` as it is read: kind, format, bytes_freed, damage (bits per byte), its standard_error
    where it was measured, and chosen. A group's bits are kinds of their own, dashed.
    """
    rows: list[dict[str, Any]] = [
        {
            "kind": row["kind"],
            "format": row["format"],
            "bytes_freed": float(row["bytes_freed"]),
            "damage": float(row["damage"]),
            "error": float(row["standard_error"] or 0),
            "chosen": row["chosen"] == "True",
        }
        for row in table
    ]
    chosen = {row["kind"]: row for row in rows if row["chosen"]}
    total = sum(row["bytes_freed"] for row in chosen.values())
    shares = {kind: row["bytes_freed"] / total for kind, row in chosen.items()} if total else {}

    def draw(axes: Axes, theme: Theme) -> None:
        if not chosen:
            axes.set_axis_off()
            axes.text(0.5, 0.5, "No budget is set: thresholds decide.", transform=axes.transAxes, ha="center")
            return
        for (kind, share), (color, marker) in zip(shares.items(), _looks(theme), strict=False):
            points = sorted(
                (row["bytes_freed"] / 1e6, row["damage"], row["error"]) for row in rows if row["kind"] == kind and not row["chosen"]
            )
            sizes, damages, errors = zip(*points, strict=True)
            taken, name = chosen[kind]["bytes_freed"], chosen[kind]["format"]
            label = f"{f'{kind} {name}'.strip()}: {taken / 1e6:,.3g} MB"
            look: dict[str, Any] = {"color": color, "marker": marker, "markersize": 3, "linestyle": "--" if name else "-"}
            axes.errorbar(sizes, damages, errors, elinewidth=0.8, capsize=1.5, label=f"{label} ({share:.0%})", **look)
            where = (chosen[kind]["bytes_freed"] / 1e6, chosen[kind]["damage"])
            axes.plot(*where, marker, color=color, markersize=9, markerfacecolor="none")
        axes.set_yscale("symlog", linthresh=0.01)
        axes.set(xlabel="weights freed (MB)", ylabel="damage (bits per byte)")
        axes.figure.legend(loc="outside lower center", ncols=2, title="what the budget takes (large markers)", fontsize=7)

    words = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items()) or "no budget is set"
    return Picture(
        "plan",
        "Where the budget is spent",
        "Damage to held-back calibration text when one resource alone is cut (the rest refitted) or rounded, with standard errors;"
        f" large markers are what the plan takes. Bytes freed by kind: {words}.",
        f"Damage in bits per byte over megabytes freed, a curve for each resource. Bytes freed by kind: {words}.",
        draw,
    )


def _looks(theme: Theme) -> Iterator[tuple[str, str]]:
    """Colours and markers, no two pairs alike for long."""
    return zip(itertools.cycle((theme.child, theme.cut, theme.parent, theme.ink)), itertools.cycle("osD^v"), strict=False)
