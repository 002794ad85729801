"""Scores are what their papers say, on numbers small enough to work out by hand."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest
import torch

from minigpts.errors import UserError
from minigpts.profiling.statistics import Statistics
from minigpts.pruning.criteria import COMPARABLE, CRITERIA, LayerEvidence, comparable, group_taylor, standardize
from minigpts.pruning.params import Criterion, Params


@pytest.fixture
def evidence() -> LayerEvidence:
    activations = torch.tensor([[0.2, -1.0], [-0.1, -1.0], [0.0, -1.0]], dtype=torch.float64)  # (3 tokens, 2 neurons)
    return LayerEvidence(
        statistics=Statistics(
            {
                "count": torch.tensor(3),
                "layers.0.mlp.abs_sum": activations.abs().sum(0),
                "layers.0.mlp.sum": activations.sum(0),
                "layers.0.mlp.square_sum": activations.square().sum(0),
            }
        ),
        index=0,
        weights_in=lambda: [torch.tensor([[1.0, 2.0], [0.0, 2.0]]), torch.tensor([[2.0, 0.0], [1.0, 2.0]])],
        weight_out=torch.tensor([[3.0, 0.0], [4.0, 1.0]]),
        generator=torch.Generator().manual_seed(3),
    )


def test_l1_is_equation_1_of_the_paper(evidence):
    assert CRITERIA["l1"](evidence).tolist() == pytest.approx([0.1, 1.0])


def test_wanda_is_column_norm_times_rms(evidence):
    assert CRITERIA["wanda"](evidence).tolist() == pytest.approx([5 * (0.05 / 3) ** 0.5, 1.0])


def test_flap_sees_no_loss_in_a_constant_neuron(evidence):
    variance = 0.05 / 3 - (0.1 / 3) ** 2
    assert CRITERIA["flap"](evidence).tolist() == pytest.approx([25 * variance, 0.0])


def test_taylor_is_the_mean_over_the_tokens(evidence):
    sums = {"layers.0.mlp.taylor_sum": torch.tensor([0.3, 6.0], dtype=torch.float64), "gradient_count": torch.tensor(3)}
    evidence.statistics.sums.update(sums)
    assert CRITERIA["taylor"](evidence).tolist() == pytest.approx([0.1, 2.0])


def test_taylor_of_a_group_is_that_of_its_query_heads():
    assert group_taylor(torch.tensor([1.0, 2.0, 3.0, 4.0]), 10, num_groups=2).tolist() == pytest.approx([0.3, 0.7])


def test_taylor_without_gradients_says_where_to_ask_for_them(evidence):
    with pytest.raises(UserError, match=r"^params\.yaml: prune_neurons\.criterion taylor needs profile\.gradient_tokens > 0$"):
        CRITERIA["taylor"](evidence)


def test_magnitude_counts_all_three_weights(evidence):
    assert CRITERIA["magnitude"](evidence).tolist() == pytest.approx([(25 + 5 + 4) ** 0.5, (1 + 4 + 5) ** 0.5])


def test_random_is_seeded(evidence):
    first = CRITERIA["random"](evidence)
    evidence.generator.manual_seed(3)
    assert torch.equal(first, CRITERIA["random"](evidence))
    assert not torch.equal(first, CRITERIA["random"](evidence))


def test_every_criterion_can_be_asked_for():
    assert list(CRITERIA) == list(get_args(Criterion)) == list(get_args(get_type_hints(Params)["criterion"]))
    assert CRITERIA.keys() >= COMPARABLE


def test_only_scores_in_units_of_the_loss_compare_as_they_are():
    layers = [torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), torch.tensor([10.0, 20.0, 30.0], dtype=torch.float64)]
    assert all(map(torch.equal, comparable("taylor", layers), layers))
    torch.testing.assert_close(*comparable("flap", layers))


def test_standardized_layers_compare():
    scores = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(standardize(scores), standardize(1000 * scores + 7))
    assert standardize(torch.ones(4, dtype=torch.float64)).tolist() == [0, 0, 0, 0]
