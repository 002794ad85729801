"""What one resource alone costs: curves through measured points, and each group's rounding, in bits per byte of held-back text.

Every damage has a standard error, from what the documents differ in, and the damage to each document, so that the standard error
of a difference between two plans can be had as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minigpts import artifacts

KINDS = ("vocabulary", "MLP", "heads", "layers", "experts")


@dataclass(frozen=True)
class Damage:
    """What a trial cut or rounding costs. Comparisons are made document by document, with the parent on the same text."""

    bits_per_byte: float  # above the parent's
    standard_error: float  # of it
    documents: Sequence[float]  # bits above the parent's, of each held-back document


NONE = Damage(0.0, 0.0, ())


@dataclass(frozen=True)
class Curve:
    """Damage of removing units of one kind, from nothing (0, 0.0) up to the most that was measured."""

    units: Sequence[float]  # removed, ascending from 0
    damage: Sequence[float]  # bits per byte above the parent's
    standard_errors: Sequence[float] = ()  # of each damage
    documents: Sequence[Sequence[float]] = ()  # of each point: bits above the parent's, of each held-back document

    @classmethod
    def through(cls, points: Sequence[tuple[float, Damage]]) -> Curve:
        """The curve of what was measured, by units removed, the first not 0."""
        untouched = (0.0, Damage(0.0, 0.0, [0.0] * len(points[0][1].documents)) if points else NONE)
        units, damages = zip(*[untouched, *points], strict=True)
        columns = zip(*((found.bits_per_byte, found.standard_error, found.documents) for found in damages), strict=True)
        return cls(units, *columns)

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

    def documents_at(self, units: ArrayLike, num_documents: int) -> NDArray[np.float64]:
        """The damage to each document (bits) of removing ``units`` (n,): (n, num_documents), along chords."""
        removed = np.asarray(units, dtype=np.float64)
        if len(self.units) == 1:
            return np.zeros((len(removed), num_documents))
        right = np.clip(np.searchsorted(self.units, removed), 1, len(self.units) - 1)
        points, known = np.asarray(self.units), np.asarray(self.documents)
        share = ((removed - points[right - 1]) / (points[right] - points[right - 1]))[:, None]
        return (1 - share) * known[right - 1] + share * known[right]


@dataclass(frozen=True)
class Curves:
    """One curve a resource, and the damage of rounding one group of tensors alone, by group and format."""

    vocabulary: Curve  # over tokens
    neurons: Curve  # over the share of the MLP neurons of the layers that stay
    heads: Curve  # over key/value heads of every layer
    layers: Curve  # over layers
    experts: Curve  # over experts of every layer
    rounding: Mapping[str, Mapping[str, Damage]] = field(default_factory=dict)
    document_bytes: Sequence[int] = ()  # of each held-back document


def ratio_error(documents: ArrayLike, document_bytes: ArrayLike) -> NDArray[np.float64]:
    """The standard error of Σ bits / Σ bytes over a sample of ``documents`` (…, documents), as a ratio of two sums has it.

    Infinite for a single document, which says nothing of others.
    """
    bits, sizes = np.asarray(documents, dtype=np.float64), np.asarray(document_bytes, dtype=np.float64)
    number = len(sizes)
    if number < 2:
        return np.full(bits.shape[:-1], np.inf)
    mean = bits.sum(-1, keepdims=True) / sizes.sum()
    return np.sqrt(number / (number - 1) * np.square(bits - mean * sizes).sum(-1)) / sizes.sum()


def write(path: Path, curves: Curves | None) -> None:
    """Write the curves; None says that nothing was measured."""
    artifacts.write_json(path, {"curves": None if curves is None else asdict(curves)})


def read(path: Path) -> Curves | None:
    """What :func:`write` wrote."""
    values = artifacts.read_json(path)["curves"]
    if values is None:
        return None
    resources = {name: Curve(**values[name]) for name in ("vocabulary", "neurons", "heads", "layers", "experts")}
    rounding = {group: {name: Damage(**found) for name, found in formats.items()} for group, formats in values["rounding"].items()}
    return Curves(**resources, rounding=rounding, document_bytes=values["document_bytes"])


def halved(options: Sequence[int], number: int) -> list[int]:
    """At most ``number`` of the ascending ``options``: the last, the one in the middle, at a quarter …; plans mostly take few."""
    return sorted({options[math.ceil(len(options) / 2**step) - 1] for step in range(number)}) if options else []
