"""Budgets, allocations, rounding."""

from __future__ import annotations

import pytest
import torch

from minigpts.errors import UserError
from minigpts.pruning import allocation

MEANS = [torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.1, 0.1, 0.1, 0.4])]


def test_a_neuron_at_the_threshold_goes():
    assert allocation.below_threshold([torch.tensor([0.5, 0.25, 0.75])], 0.5) == [2]


@pytest.mark.parametrize(("where", "expected"), [("per_layer", [1.0, 3.0]), ("uniform", [2.0, 2.0]), ("adaptive", [1.0, 3.0])])
def test_where_the_threshold_takes_its_budget(where, expected):
    assert allocation.removals(MEANS, MEANS, 0.1, None, where) == expected


@pytest.mark.parametrize("where", ["per_layer", "uniform", "adaptive"])
@pytest.mark.parametrize("budget", [0, 1, 5])
def test_a_budget_is_spent_to_the_neuron(where, budget):
    distinct = [torch.arange(8.0) / 10, torch.arange(8.0) / 7 + 0.01]
    assert sum(allocation.removals(distinct, distinct, 99.0, budget, where)) == pytest.approx(budget)


def test_a_threshold_is_a_limit():
    assert allocation.rounded_widths([64, 64], [20, 0], 16) == [48, 64]
    assert allocation.rounded_widths([77], [0], 32) == [77]  # nothing asked, nothing taken
    assert allocation.rounded_widths([10], [1.0000000001], 1) == [9]


@pytest.mark.parametrize(
    ("removed", "num_kept", "multiple_of", "expected"),
    [
        ([20, 0], 112, 16, [48, 64]),
        ([20, 4], 96, 16, [48, 48]),  # 44 and 60: the first is nearer to its next multiple
        ([64, 0], 80, 16, [16, 64]),  # no layer is emptied
        ([21.5, 21.5], 85, 1, [43, 42]),  # of equals the earlier keeps more
        ([0, 0], 32, 16, [16, 16]),
    ],
)
def test_widths_have_the_sum_that_is_asked(removed, num_kept, multiple_of, expected):
    assert allocation.widths_with_sum([64, 64], removed, num_kept, multiple_of) == expected


def test_emptying_a_layer_is_refused_by_name():
    with pytest.raises(UserError, match=r"empty layer 1 \(4 neurons, 4 to go\)"):
        allocation.rounded_widths([4, 4], [1, 4], 1)


def test_the_highest_stay_in_order_and_ties_keep_the_lower_index():
    kept = allocation.keep_highest([torch.tensor([0.5, 0.9, 0.5, 0.1])], [2])
    assert kept[0].tolist() == [0, 1]
