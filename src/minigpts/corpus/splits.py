"""Splits by group with scikit-learn: a group is never divided, and the shares come out close to those asked for.

It works on the documents' numbers alone, so a corpus may be larger than memory.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from minigpts.errors import UserError

T = TypeVar("T")

SPLITS = ("train", "calibration", "validation", "test")
DRAWS = 12  # of groups at each of the following shares of the groups, relative to the share of documents asked for
SPREAD = (1.0, 1.25, 1.5, 2.0)


def split(
    groups: NDArray[np.int64], sources: NDArray[np.int64], shares: Mapping[str, float], seed: int
) -> dict[str, NDArray[np.intp]]:
    """Assign whole groups to test, validation and calibration, as ``shares`` of each source's documents; the rest trains.

    ``groups`` and ``sources``, (documents,), are the number of each document's group and source. Returns the documents' numbers,
    sorted within a source. Raises UserError when there are too few groups to give each split one.
    """
    parts: dict[str, list[NDArray[np.intp]]] = {name: [] for name in SPLITS}
    for source in np.unique(sources) if len(sources) else [0]:
        rest = np.flatnonzero(sources == source)
        total = len(rest)
        for name in ("test", "validation", "calibration"):
            taken = _taken(groups[rest], shares[name] * total / max(len(rest), 1), seed)
            parts[name].append(rest[taken])
            rest = rest[~taken]
        parts["train"].append(rest)
    return {name: np.concatenate(numbers) for name, numbers in parts.items()}


def _taken(groups: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Which documents the best of many draws of groups contains, (documents,): the one whose share of documents is closest.

    Groups differ in size, so a share of the groups isn't the same share of the documents: one group may hold a third of them.
    """
    from sklearn.model_selection import ShuffleSplit

    _, members, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) < 2 or not 0 < share < 1:
        there = f"{len(groups)} distinct documents in {len(sizes)} groups"
        raise UserError(f"dataset: {there} are too few to split four ways; give more text, or another dataset.group_column")
    draws = (
        draw
        for factor in SPREAD
        for _, draw in ShuffleSplit(DRAWS, test_size=min(share * factor, 0.5), random_state=seed).split(sizes)
    )
    best = min(draws, key=lambda draw: abs(int(sizes[draw].sum()) / len(groups) - share))
    chosen = np.zeros(len(sizes), dtype=np.bool_)
    chosen[best] = True
    return chosen[members]


def spread(items: Sequence[T], group_of: Callable[[T], Hashable], seed: int) -> list[T]:
    """The items in a random order that has one of each group before a second of any, and so on.

    Any beginning of it covers as many groups as it can, so no large family of terms dominates. An item of the group None is a
    group of its own.
    """
    order = list(items)
    random.Random(seed).shuffle(order)
    seen: Counter[Hashable] = Counter()
    turns = []
    for item in order:
        group = group_of(item)
        turns.append((seen[group], item))
        seen[group] += group is not None
    return [item for _, item in sorted(turns, key=lambda turn: turn[0])]


def capped(numbers: NDArray[np.intp], sizes: NDArray[np.int64], max_bytes: int | None) -> NDArray[np.intp]:
    """The first documents that together fit into ``max_bytes`` (None: all). ``sizes``: bytes of every document of the corpus."""
    if max_bytes is None:
        return numbers
    return numbers[: int(np.searchsorted(np.cumsum(sizes[numbers]), max_bytes, side="right"))]
