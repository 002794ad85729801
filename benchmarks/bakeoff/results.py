"""What the bake-off's lines amount to: a table of margins, and a picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from minigpts.reporting.figures import Picture
from minigpts.reporting.style import Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Lines = Sequence[Mapping[str, str]]
Entry = tuple[str, str]  # criterion, refit
BySeed = dict[int, float]  # perplexity

COLOURS = {  # Okabe and Ito's, the yellow left out, which white swallows
    "random": "#000000",
    "magnitude": "#cc79a7",
    "paper": "#d55e00",
    "l1": "#e69f00",
    "wanda": "#0072b2",
    "flap": "#56b4e9",
    "taylor": "#009e73",
}
PEER_MARKERS = "sD^v"
WORTH_SEEING = 20  # times the parent's perplexity: lines leave the picture there, the figures are in the table


def grouped(lines: Lines) -> dict[tuple[int, float], dict[Entry, BySeed]]:
    """Perplexities by (tuned_tokens, ratio), then by entry, then by seed."""
    found: dict[tuple[int, float], dict[Entry, BySeed]] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        where, entry = (int(line["tuned_tokens"]), float(line["ratio"])), (line["criterion"], line["refit"])
        found[where][entry][int(line["seed"])] = float(line["perplexity"])
    return found


def table(lines: Lines, ours: str) -> str:
    """One row an entry, a block for each tuning and ratio: mean and spread over seeds, and how it compares with ours.

    ``ours`` is the pipeline's criterion, with the refit. The last column is the entry's perplexity over ours, seed by seed.
    """
    out = []
    for (tuned_tokens, ratio), entries in sorted(grouped(lines).items()):
        tuning = f"tuned on {tuned_tokens:,} tokens" if tuned_tokens else "untuned"
        out.append(f"\n{ratio:.0%} of the MLP neurons gone, {tuning}" if ratio else f"\nthe parent, {tuning}")
        own = entries.get((ours, "least_squares"), {})
        for (criterion, refit), values in sorted(entries.items(), key=lambda item: fmean(item[1].values())):
            name = criterion if refit == "none" else f"{criterion} + refit"
            over = [value / own[seed] for seed, value in values.items() if seed in own]
            margin = "" if not over else "ours" if values is own else f"{spread(over)} × ours"
            out.append(f"  {name:24} {spread(list(values.values())):32} {margin}".rstrip())
    return "\n".join(out)


def spread(values: Sequence[float]) -> str:
    """Mean, and lowest to highest where there are several."""
    low, high = min(values), max(values)
    return f"{fmean(values):.4g}" if len(values) == 1 or low == high else f"{fmean(values):.4g} ({low:.4g} to {high:.4g})"


def picture(lines: Lines) -> Picture:
    """Untuned perplexity over the share of neurons gone."""
    by_place = grouped([line for line in lines if line["tuned_tokens"] == "0"])
    dense = by_place.pop((0, 0.0), {}).get(("dense", "none"), {})
    curves: dict[Entry, list[tuple[float, BySeed]]] = defaultdict(list)
    for (_, ratio), entries in sorted(by_place.items()):
        for entry, values in entries.items():
            curves[entry].append((ratio, values))

    def draw(axes: Axes, theme: Theme) -> None:
        peers = [criterion for criterion, _ in curves if criterion not in COLOURS]
        for (criterion, refit), points in curves.items():
            percent = [100 * ratio for ratio, _ in points]
            means = [fmean(values.values()) for _, values in points]
            below = [mean - min(values.values()) for mean, (_, values) in zip(means, points, strict=True)]
            above = [max(values.values()) - mean for mean, (_, values) in zip(means, points, strict=True)]
            known = criterion in COLOURS
            style: dict[str, Any] = {
                "color": COLOURS.get(criterion, theme.parent),
                "linestyle": ":" if not known else "-" if refit != "none" else "--",
                "marker": "o" if known else PEER_MARKERS[peers.index(criterion) % len(PEER_MARKERS)],
                # one entry in the legend a criterion: the solid line where there is one
                "label": criterion if not known or refit != "none" or (criterion, "least_squares") not in curves else None,
            }
            axes.errorbar(percent, means, [below, above], markersize=3.5, linewidth=1.3, capsize=2, elinewidth=0.8, **style)
        axes.set_yscale("log")
        if dense:
            parent = fmean(dense.values())
            axes.axhline(parent, color=theme.ink, linewidth=0.8, linestyle="-.", label="parent")
            axes.set_ylim(top=min(axes.get_ylim()[1], WORTH_SEEING * parent))
        axes.set(xlabel="MLP neurons gone (%)", ylabel="perplexity, untuned")
        title = f"solid: with refit, dashed: without, dotted: peers\nnothing above {WORTH_SEEING} × the parent's is shown"
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=4, fontsize=7, title=title, title_fontsize=7)

    best = {ratio: min(entries.items(), key=lambda item: fmean(item[1].values())) for (_, ratio), entries in by_place.items()}
    words = "; ".join(
        f"{ratio:.0%}: {criterion}{'' if refit == 'none' else ' with refit'} at {fmean(values.values()):.3g}"
        for ratio, ((criterion, refit), values) in sorted(best.items())
    )
    return Picture(
        "criteria",
        "Which neurons to cut",
        "Perplexity of the test text without any tuning, against the share of MLP neurons cut; bars span the seeds.",
        f"Perplexity on a logarithmic scale over the share of MLP neurons cut, a line for each criterion. Lowest at {words}.",
        draw,
    )
