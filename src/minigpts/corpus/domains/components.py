"""Connected components: which items hang together, directly or by way of others."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def first_of_component(items: Iterable[str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The first member, in sorted order, of each item's connected component; ``pairs`` of items are the edges."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names = sorted(set(items))
    place = {name: number for number, name in enumerate(names)}
    edges = np.array([(place[one], place[other]) for one, other in pairs], dtype=np.int64).reshape(-1, 2)
    ones = np.ones(len(edges))  # a pair given many times adds up
    _, labels = connected_components(coo_array((ones, (edges[:, 0], edges[:, 1])), shape=(len(names),) * 2), directed=False)
    first = {label: name for label, name in zip(labels[::-1].tolist(), names[::-1], strict=True)}
    return {name: first[label] for name, label in zip(names, labels.tolist(), strict=True)}
