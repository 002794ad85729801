"""Pictures that compare domains: how loud the neurons are, how often tokens occur, what is kept, and who does well where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.experiments.cross_domain import Run, jaccard
from minigpts import artifacts
from minigpts.model.weights import read_arrays
from minigpts.profiling.statistics import Statistics
from minigpts.reporting.figures import Picture
from minigpts.reporting.style import Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#000000")  # Okabe and Ito's, the yellow left out
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))
LARGEST = 8  # domains in a matrix of scatter plots: with more, a panel would be too small to read


def of_statistics(runs: Sequence[Run]) -> list[Picture]:
    """What the experiments' own statistics show."""
    names = [run.name for run in runs]
    magnitudes = [
        np.concatenate(Statistics(read_arrays(run.folder / "activation_stats.safetensors")).mean_abs_by_layer()) for run in runs
    ]
    counts = [np.array(artifacts.read_table(run.folder / "token_counts.parquet", ["count"])["count"]) for run in runs]
    kept = {"neurons": [run.kept_neurons() for run in runs], "tokens": [run.kept_tokens() for run in runs]}
    return [*magnitude_pairs(names, magnitudes), token_frequencies(names, counts), overlap(names, kept)]


def of_matrices(crossed: Sequence[Mapping[str, Any]], calibrated: Sequence[Mapping[str, Any]]) -> list[Picture]:
    """What the rows of cross_domain.csv and calibration_domains.csv show."""
    return [children_everywhere(crossed), calibration(calibrated)]


def magnitude_pairs(names: Sequence[str], magnitudes: Sequence[NDArray[np.float64]]) -> list[Picture]:
    """Each neuron's mean |activation| on one domain against another's, a panel a pair; none for a single domain.

    ``magnitudes`` are a domain's neurons, all layers, (neurons,). Logarithmic, and so is the correlation.
    """
    shown = list(names[:LARGEST])
    if len(shown) < 2:
        return []
    logs = [np.log10(np.maximum(values, np.finfo(np.float32).tiny)) for values in magnitudes]
    low, high = np.quantile(np.concatenate(logs), (0.001, 0.999))
    correlations = {(one, other): np.corrcoef(logs[one], logs[other])[0, 1] for one, other in combinations(range(len(shown)), 2)}

    def draw(axes: Axes, theme: Theme) -> None:
        axes.set_axis_off()
        grid = axes.figure.add_gridspec(len(shown) - 1, len(shown) - 1)  # type: ignore[union-attr]
        axes.set_subplotspec(grid[0, :])
        for (column, row), correlation in correlations.items():
            panel = axes.figure.add_subplot(grid[row - 1, column])
            style: dict[str, Any] = {"gridsize": 28, "extent": (low, high, low, high), "bins": "log", "mincnt": 1, "linewidths": 0}
            panel.hexbin(logs[column], logs[row], cmap="viridis", **style)
            panel.plot((low, high), (low, high), color=theme.cut, linewidth=0.8)
            panel.set(xlim=(low, high), ylim=(low, high), xticks=[], yticks=[])
            panel.text(0.97, 0.05, f"r = {correlation:.2f}", transform=panel.transAxes, ha="right", fontsize=6.5)
            if column == 0:
                panel.set_ylabel(shown[row], fontsize=7)
            if row == len(shown) - 1:
                panel.set_xlabel(shown[column], fontsize=7)

    words = "; ".join(f"{shown[one]} and {shown[other]} {value:.3f}" for (one, other), value in correlations.items())
    return [
        Picture(
            "neuron_magnitudes",
            "The same neurons on two domains",
            "Every MLP neuron's mean absolute activation on one domain's calibration text against another's, both on logarithmic"
            f" scales from {10**low:.2g} to {10**high:.2g}; darker is fewer neurons, on the line both are equal.",
            f"Density of the neurons for each pair of domains. Correlations of the logarithms: {words}.",
            draw,
        )
    ]


def token_frequencies(names: Sequence[str], counts: Sequence[NDArray[np.int64]]) -> Picture:
    """Each domain's tokens by rank, as shares of all its training text's tokens. ``counts``: (vocab_size,) a domain."""
    occurring = [int((count > 0).sum()) for count in counts]

    def draw(axes: Axes, theme: Theme) -> None:
        for index, (name, count) in enumerate(zip(names, counts, strict=True)):
            shares = np.sort(count)[::-1][: occurring[index]] / count.sum()
            label = f"{name}: {occurring[index]:,} of {len(count):,} occur"
            style: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index % len(DASHES)]}
            axes.plot(np.arange(1, len(shares) + 1), shares, linewidth=1.4, label=label, **style)
        axes.set(xscale="log", yscale="log", xlim=(1, len(counts[0])), xlabel="token's rank", ylabel="share of the tokens")
        axes.legend(loc="lower left", fontsize=7.5)

    words = "; ".join(f"{name} {number:,}" for name, number in zip(names, occurring, strict=True))
    return Picture(
        "token_frequencies",
        "How often each domain uses its tokens",
        "Share of each token in a domain's training text, most frequent first, on logarithmic scales; where a curve ends, no"
        " further token occurs.",
        f"Rank and share of tokens on logarithmic scales, a curve a domain. Tokens that occur: {words}.",
        draw,
    )


def overlap(names: Sequence[str], kept: Mapping[str, Sequence[NDArray[np.bool_]]]) -> Picture:
    """Jaccard index of what each two domains' children keep of the parent, a matrix a kind (neurons, tokens)."""
    matrices = {kind: jaccard(sets) for kind, sets in kept.items()}
    chance = {kind: _by_chance([float(one.mean()) for one in sets]) for kind, sets in kept.items()}

    def draw(axes: Axes, theme: Theme) -> None:
        panels = _panels(axes, len(matrices))
        for panel, (kind, values) in zip(panels, matrices.items(), strict=True):
            _heat_map(panel, theme, names, values, "{:.2f}", (0.0, 1.0))
            panel.set_xlabel(f"{kind} (by chance {chance[kind]:.2f})", fontsize=8)

    pairs = list(combinations(range(len(names)), 2))
    words = "; ".join(
        f"{kind}: " + ", ".join(f"{names[one]} and {names[other]} {values[one, other]:.2f}" for one, other in pairs)
        for kind, values in matrices.items()
    )
    return Picture(
        "overlap",
        "What two domains keep alike",
        "Of the neurons, and of the tokens, that either of two domains' children keeps, the share that both keep (Jaccard index);"
        " in brackets what random choices of the same sizes would share.",
        f"Matrices of Jaccard indices. {words}.",
        draw,
    )


def _by_chance(shares: Sequence[float]) -> float:
    """Mean Jaccard index of two random sets of the given shares."""
    pairs = list(combinations(shares, 2)) or [(shares[0], shares[0])]
    return float(np.mean([one * other / (one + other - one * other) for one, other in pairs]))


def children_everywhere(rows: Sequence[Mapping[str, Any]]) -> Picture:
    """Each domain's child on each domain, against the parent: bits per byte as a ratio, answers in points."""
    names = list(dict.fromkeys(row["domain"] for row in rows))
    ratio, points = (np.full((len(names), len(names)), np.nan) for _ in range(2))
    for row in rows:
        place = names.index(row["domain"]), names.index(row["evaluated_on"])
        ratio[place] = row["bits_per_byte"] / row["bits_per_byte_parent"]
        if row["acc"] is not None and row["acc_parent"] is not None:
            points[place] = round(100 * (row["acc"] - row["acc_parent"]))

    def draw(axes: Axes, theme: Theme) -> None:
        left, right = _panels(axes, 2)
        _heat_map(left, theme, names, ratio, "{:.2f}", best_is_low=True)
        left.set_xlabel("tested on\n(bits per byte, × parent's)", fontsize=8)
        left.set_ylabel("child for", fontsize=8)
        _heat_map(right, theme, names, points, "{:+.0f}")
        right.set_xlabel("tested on\n(answers, points over parent's)", fontsize=8)

    words = "; ".join(
        f"for {name} × {ratio[index, index]:.2f} on its own text, × {np.delete(ratio[index], index).min():.2f} to"
        f" × {np.delete(ratio[index], index).max():.2f} on others"
        if len(names) > 1
        else f"for {name} × {ratio[index, index]:.2f}"
        for index, name in enumerate(names)
    )
    return Picture(
        "cross_domain",
        "Each child on every domain",
        "A row a child, pruned and tuned for one domain; a column the domain it is tested on. Left, bits per byte over the parent's"
        " (lower is better); right, answers in points over the parent's (higher is better). Lighter is better.",
        f"Bits per byte over the parent's, children {words}.",
        draw,
    )


def calibration(rows: Sequence[Mapping[str, Any]]) -> Picture:
    """Perplexity of each domain's text after a cut by each domain's calibration, over that by its own."""
    names = list(dict.fromkeys(row["domain"] for row in rows))
    refits = list(dict.fromkeys(row["refit"] for row in rows))
    matrices = {refit: np.full((len(names), len(names)), np.nan) for refit in refits}
    for row in rows:
        matrices[row["refit"]][names.index(row["calibrated_on"]), names.index(row["domain"])] = row["perplexity"]
    ratios = {refit: values / np.diag(values) for refit, values in matrices.items()}
    share = rows[0]["neurons_removed"]

    def draw(axes: Axes, theme: Theme) -> None:
        panels = _panels(axes, len(ratios))
        for panel, (refit, values) in zip(panels, ratios.items(), strict=True):
            _heat_map(panel, theme, names, values, "{:.3g}", best_is_low=True, logarithmic=True)
            panel.set_xlabel(f"tested on\n({'no' if refit == 'none' else 'with the'} refit)", fontsize=8)
        panels[0].set_ylabel("calibrated on", fontsize=8)

    worst = {refit: values[~np.eye(len(names), dtype=bool)] for refit, values in ratios.items()}
    words = "; ".join(
        f"{'without' if refit == 'none' else 'with'} the refit × {values.min():.2f} to × {values.max():.2f}"
        for refit, values in worst.items()
        if values.size
    )
    return Picture(
        "calibration",
        "Whose text should choose the neurons",
        f"Perplexity of a domain's test text (column) after {share:.0%} of the parent's neurons went by one domain's calibration"
        " text (row), untuned, over that by its own (lower is better). Lighter is better.",
        f"Perplexity after another domain's calibration over that after the own: {words or 'one domain only'}.",
        draw,
    )


def _panels(axes: Axes, number: int) -> list[Axes]:
    """That many pairs of axes side by side, below the title of ``axes``; the figure ends where square ones do."""
    axes.set_axis_off()
    axes.figure.set_figheight(0.82 * axes.figure.get_figheight())  # type: ignore[union-attr]
    grid = axes.figure.add_gridspec(1, number)  # type: ignore[union-attr]
    axes.set_subplotspec(grid[0, :])
    return [axes.figure.add_subplot(grid[0, column]) for column in range(number)]


def _heat_map(
    axes: Axes,
    theme: Theme,
    names: Sequence[str],
    values: NDArray[np.float64],
    form: str,
    limits: tuple[float, float] | None = None,
    best_is_low: bool = False,
    logarithmic: bool = False,
) -> None:
    """A square matrix with its numbers, (rows, columns), lighter where it is better; nothing stands where there is none."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm, Normalize

    known = values[np.isfinite(values)]
    low, high = limits or ((float(known.min()), float(known.max())) if known.size else (0.0, 1.0))
    scale = colormaps["cividis_r" if best_is_low else "cividis"]
    normalize = (LogNorm if logarithmic else Normalize)(low, high if high > low else low + 1)
    axes.imshow(np.ma.masked_invalid(values), cmap=scale, norm=normalize)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = scale(normalize(value))
            ink = "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "#ffffff"
            axes.text(column, row, form.format(value), ha="center", va="center", fontsize=6.5, color=ink)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=7)
    axes.set_yticks(range(len(names)), names if axes.get_subplotspec().colspan.start == 0 else [""] * len(names), fontsize=7)  # type: ignore[union-attr]
    axes.set_anchor("N")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
