"""The picture of bits.csv: quality against the megabytes of the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from minigpts.reporting.figures import Picture
from minigpts.reporting.style import Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TUNED, VOCABULARY, PRUNED, OURS = "tuned parent", "vocabulary alone", "pruned", "ours"  # what stands before the comma in a name
PLAIN = "BF16"
Row = Mapping[str, str]
Point = tuple[float, float, str]  # megabytes, bits per byte, what it is called


def points(rows: Sequence[Row], group: str) -> list[Point]:
    """The points of a group of rows, smallest first."""
    found = []
    for row in rows:
        begins, _, called = row["name"].partition(", ")
        if begins == group:
            found.append((float(row["megabytes"]), float(row["bits_per_byte"]), called))
    return sorted(found)


def picture(rows: Sequence[Row], data: str) -> Picture:
    """Test bits per byte over megabytes: ours as a line, llama.cpp's types as labelled points, the tuned parent as a level."""
    groups = {group: points(rows, group) for group in (TUNED, VOCABULARY, PRUNED, OURS)}
    level = next((bits for _, bits, called in groups[TUNED] if called == PLAIN), None)

    def draw(axes: Axes, theme: Theme) -> None:
        if level is not None:
            axes.axhline(level, color=theme.ink, linestyle=":", linewidth=1.2, label="tuned parent, bf16")
        looks = {TUNED: (theme.parent, "s"), VOCABULARY: (theme.cut, "D"), PRUNED: (theme.ink, "^")}
        for group, (color, marker) in looks.items():
            if groups[group]:
                x, y, called = zip(*groups[group], strict=True)
                label = f"{group}, bf16" if group == PRUNED else f"{group}, llama.cpp's types"
                axes.plot(x, y, marker, color=color, markersize=4.5, label=label)
                for place in zip(x, y, called, strict=True):
                    _label(axes, *place, below=group == VOCABULARY)  # the two are near to each other
        if groups[OURS]:
            x, y, _ = zip(*groups[OURS], strict=True)
            axes.plot(x, y, color=theme.child, marker="o", markersize=4.5, label="ours", zorder=3)
        axes.set(xscale="log", xlabel="file (MB)", ylabel="bits per byte")
        _ticks(axes, [x for group in groups.values() for x, *_ in group])
        axes.margins(y=0.15)
        axes.legend(loc="best", fontsize=7)

    words = "; ".join(f"{row['name']} {float(row['megabytes']):.0f} MB {float(row['bits_per_byte']):.3f}" for row in rows)
    return Picture(
        "bits",
        f"Quality against file size: {data}",
        "Test bits per byte (lower is better) of the files a user can have at each size, all tuned on as many tokens and rounded"
        " with the same calibration text.",
        f"Bits per byte by megabytes of the file: {words}.",
        draw,
    )


def _label(axes: Axes, x: float, y: float, called: str, below: bool) -> None:
    axes.annotate(called, (x, y), xytext=(0, -11 if below else 5), textcoords="offset points", ha="center", fontsize=6)


def _ticks(axes: Axes, megabytes: Sequence[float]) -> None:
    """Round numbers of megabytes, written out."""
    from matplotlib.ticker import NullLocator

    round_ones = [
        tick for tick in (20, 30, 40, 50, 65, 80, 100, 150, 200, 300) if min(megabytes) * 0.8 <= tick <= max(megabytes) * 1.2
    ]
    axes.set_xticks(round_ones, [str(tick) for tick in round_ones])
    axes.xaxis.set_minor_locator(NullLocator())
