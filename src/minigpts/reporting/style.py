"""The house style of the figures: two themes, one size, the same bytes for the same data.

Colours are Okabe and Ito's (doi 10.1038/nmeth.1618), told apart with any colour vision; what is drawn in them also differs
in dash, marker or place. The size is chosen for a phone: 4.6 in across a 315 px column leaves 9 pt type at about 11 px.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH_INCHES, HEIGHT_INCHES, DOTS_PER_INCH = 4.6, 3.4, 220
PALETTE = 96  # colours in a file


@dataclass(frozen=True)
class Theme:
    """Colours by what they stand for."""

    background: str
    ink: str  # text and axes
    grid: str
    parent: str  # whatever belongs to the parent model
    child: str  # whatever belongs to the child
    cut: str  # thresholds and cuts
    depth: tuple[float, float]  # the stretch of the viridis map that stands out from the background


LIGHT = Theme("#ffffff", "#1b1f24", "#d9dde2", "#8a929c", "#0072b2", "#c24e00", (0.0, 0.88))
DARK = Theme("#161a1f", "#e4e7eb", "#39414a", "#98a1ac", "#56b4e9", "#ee9a2e", (0.28, 1.0))

Draw = Callable[["Axes", Theme], None]


def pixels() -> tuple[int, int]:
    """Width and height of every figure."""
    return round(WIDTH_INCHES * DOTS_PER_INCH), round(HEIGHT_INCHES * DOTS_PER_INCH)


@cache  # the page and the figure's own file ask for the same bytes
def render(title: str, draw: Draw, theme: Theme) -> bytes:
    """One figure with one pair of axes, as PNG bytes. Uses no global state but matplotlib's settings, which it restores."""
    import matplotlib
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's matplotlibrc says
        matplotlib.rcParams.update(_settings(theme))
        figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), dpi=DOTS_PER_INCH, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title, loc="left")
        draw(axes, theme)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    # Few colours are in use: a palette makes a third of the bytes, and every run's figures are committed. Pillow writes no
    # version, date or resolution into the file.
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).quantize(PALETTE, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _settings(theme: Theme) -> dict[Any, Any]:
    ink = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), theme.ink)
    paper = dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), theme.background)
    return {
        **ink,
        **paper,
        "font.family": "DejaVu Sans",  # comes with matplotlib
        "font.size": 9,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "legend.labelcolor": theme.ink,
        "lines.linewidth": 1.8,
    }
