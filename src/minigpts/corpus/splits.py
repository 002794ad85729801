"""Splits by group with scikit-learn: what belongs together stays together, and the shares come out close to asked."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

from minigpts.corpus.document import Document, Question, normalized
from minigpts.errors import UserError

T = TypeVar("T", Document, Question)

SPLITS = ("train", "calibration", "validation", "test")
DRAWS = 12  # of groups at each of the following shares of the groups, relative to the share of documents asked for
SPREAD = (1.0, 1.25, 1.5, 2.0)


def without_copies(documents: Sequence[Document]) -> list[Document]:
    """The documents without those whose words, in order, an earlier one already has."""
    return list({normalized(document.text): document for document in reversed(documents)}.values())[::-1]


def split(documents: Sequence[Document], shares: Mapping[str, float], seed: int) -> dict[str, list[Document]]:
    """Assign whole groups to test, validation and calibration, as ``shares`` of each source's documents; the rest trains.

    Raises UserError when there are too few groups to give each split one.
    """
    parts: dict[str, list[Document]] = {name: [] for name in SPLITS}
    for source in sorted({document.source for document in documents}) or [""]:
        rest = [document for document in documents if document.source == source]
        total = len(rest)
        for name in ("test", "validation", "calibration"):
            rest, taken = _take(rest, shares[name] * total / max(len(rest), 1), seed)
            parts[name] += taken
        parts["train"] += rest
    return parts


def _take(documents: Sequence[Document], share: float, seed: int) -> tuple[list[Document], list[Document]]:
    """Draw groups many times and keep the draw whose share of documents is closest.

    Groups differ in size, so a share of the groups isn't the same share of the documents: one group may hold a third of them.
    """
    import numpy as np
    from sklearn.model_selection import GroupShuffleSplit

    _, groups = np.unique([document.group for document in documents], return_inverse=True)
    if groups.size == 0 or groups.max() < 1 or not 0 < share < 1:
        raise UserError(f"dataset: {len(documents)} distinct documents are too few to split four ways; give more text")
    draws = (
        draw
        for factor in SPREAD
        for draw in GroupShuffleSplit(DRAWS, test_size=min(share * factor, 0.5), random_state=seed).split(groups, groups=groups)
    )
    rest, taken = min(draws, key=lambda draw: abs(len(draw[1]) / len(documents) - share))
    return [documents[i] for i in rest], [documents[i] for i in taken]


def shuffled(items: Sequence[T], seed: int) -> list[T]:
    """The items in an order of chance that depends on the seed alone."""
    order = list(items)
    random.Random(seed).shuffle(order)
    return order


def spread(items: Sequence[T], seed: int) -> list[T]:
    """The items in an order of chance that takes one of each group before a second of any, and so on.

    Cut short, it covers as many topics as it can: no large family of terms dominates. Items without a group count as alone.
    """
    seen: Counter[str | None] = Counter()
    turns = []
    for item in shuffled(items, seed):
        turns.append((seen[item.group], item))
        seen[item.group] += item.group is not None
    return [item for _, item in sorted(turns, key=lambda turn: turn[0])]


def capped(documents: Sequence[Document], max_bytes: int | None) -> list[Document]:
    """The first documents whose UTF-8 text fits into ``max_bytes`` together; None: all."""
    if max_bytes is None:
        return list(documents)
    kept, size = [], 0
    for document in documents:
        size += len(document.text.encode())
        if size > max_bytes:
            break
        kept.append(document)
    return kept


def text_bytes(documents: Sequence[Document]) -> int:
    """The size of the documents' text in UTF-8."""
    return sum(len(document.text.encode()) for document in documents)
