"""Splits keep groups whole and come out close to the shares asked for."""

from __future__ import annotations

import numpy as np
import pytest

from minigpts.corpus import splits
from minigpts.errors import UserError

SHARES = {"calibration": 0.1, "validation": 0.05, "test": 0.15}


def groups_of(sizes: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes)


def test_groups_stay_whole_and_shares_are_close_in_each_source():
    one, other = groups_of([700] + [1 + g % 9 for g in range(300)]), groups_of([2] * 300)  # one group is a third of its source
    groups = np.concatenate([one, other + one.max() + 1])
    sources = np.repeat([0, 1], [len(one), len(other)])
    parts = splits.split(groups, sources, SHARES, seed=0)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(groups)))
    found = [set(groups[numbers].tolist()) for numbers in parts.values()]
    assert sum(map(len, found)) == len(set().union(*found))
    for source in (0, 1):
        for name, share in SHARES.items():
            assert (sources[parts[name]] == source).sum() / (sources == source).sum() == pytest.approx(share, abs=0.01)


def test_the_seed_alone_decides():
    groups = groups_of([3] * 100)
    one, again, other = (splits.split(groups, np.zeros_like(groups), SHARES, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], again[name]) for name in splits.SPLITS)
    assert not all(np.array_equal(one[name], other[name]) for name in splits.SPLITS)


@pytest.mark.parametrize("sizes", [[], [5], [1, 1]])
def test_too_few_groups_are_refused(sizes):
    groups = groups_of(sizes).astype(np.int64)
    with pytest.raises(UserError, match="too few"):
        splits.split(groups, np.zeros_like(groups), SHARES, 0)


def test_spread_covers_every_group_before_it_returns_to_one():
    groups = groups_of([50, 2, 1])
    order = splits.spread(range(53), lambda item: int(groups[item]), seed=0)
    assert set(groups[order[:3]].tolist()) == {0, 1, 2}
    assert set(groups[order[3:5]].tolist()) == {0, 1}
    assert sorted(order) == list(range(53))
    assert len(splits.spread("abc", lambda item: None, seed=0)) == 3


def test_capped_takes_whole_documents_by_their_bytes():
    numbers, sizes = np.array([4, 1, 3]), np.array([0, 6, 0, 6, 6])
    assert splits.capped(numbers, sizes, 17).tolist() == [4, 1]
    assert splits.capped(numbers, sizes, 18).tolist() == [4, 1, 3]
    assert splits.capped(numbers, sizes, None).tolist() == [4, 1, 3]
