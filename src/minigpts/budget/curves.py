"""What removing one resource alone costs: curves through measured points, in bits per byte of held-back calibration text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigpts import artifacts

KINDS = ("vocabulary", "MLP", "heads", "layers")


@dataclass(frozen=True)
class Curve:
    """Damage of removing units of one kind, from nothing (0, 0.0) up to the most that was measured."""

    units: Sequence[float]  # removed, ascending from 0
    damage: Sequence[float]  # bits per byte above the parent's

    @property
    def most(self) -> float:
        """The most units that may be removed: beyond it nothing is known."""
        return self.units[-1]

    def at(self, units: Any) -> NDArray[np.float64]:
        """The damage of removing ``units`` (a number or an array, within the curve).

        Between points a monotone cubic (Fritsch and Butland, doi 10.1137/0905021): it goes through what was measured, makes
        no bumps of its own, and bends like the growing damage, where chords would have a corner at every measured point
        that the search would then always choose.
        """
        from scipy.interpolate import PchipInterpolator

        if len(self.units) == 1:
            return np.zeros(np.shape(units))
        return PchipInterpolator(self.units, self.damage)(units)


@dataclass(frozen=True)
class Curves:
    """One curve a resource."""

    vocabulary: Curve  # over tokens
    neurons: Curve  # over the share of the MLP neurons of the layers that stay
    heads: Curve  # over key/value heads of every layer
    layers: Curve  # over layers


def write(path: Path, curves: Curves | None) -> None:
    """Write the curves; None says that nothing was measured."""
    artifacts.write_json(path, {"curves": None if curves is None else asdict(curves)})


def read(path: Path) -> Curves | None:
    """What :func:`write` wrote."""
    values = artifacts.read_json(path)["curves"]
    return None if values is None else Curves(**{name: Curve(**curve) for name, curve in values.items()})


def halved(options: Sequence[int], number: int) -> list[int]:
    """At most ``number`` of the ascending ``options``: the last, the one in the middle, at a quarter …; plans mostly take few."""
    return sorted({options[math.ceil(len(options) / 2**step) - 1] for step in range(number)}) if options else []
