"""Which experts are kept: from the profile's sums to indices, in groups and without."""

import torch

from minigpts.profiling.statistics import Statistics
from minigpts.pruning import experts

SUMS = Statistics(
    {
        "count": torch.tensor(10),
        "layers.0.block.cosine_sum": torch.tensor(1.0),
        "layers.1.block.cosine_sum": torch.tensor(1.0),  # a dense layer
        "layers.0.experts.routed": torch.tensor([8.0, 1.0, 0.0, 2.0]),
        "layers.0.experts.gate_sum": torch.tensor([1.0, 0.9, 0.0, 1.5]),
        "layers.0.experts.norm_sum": torch.tensor([16.0, 9.0, 0.0, 2.0]),
        "layers.0.experts.gated_norm_sum": torch.tensor([2.0, 8.1, 0.0, 1.6]),
        "layers.0.experts.gated_square_sum": torch.tensor([1.0, 64.0, 0.0, 2.25]),
    }
)


def test_each_criterion_reads_its_sums():
    expected = {
        "contribution": [1.0, 8.0, 0.0, 1.5],
        "reap": [0.25, 8.1, 0.0, 0.8],  # an expert that no token reaches is worth nothing, not undefined
        "gate": [1.0, 0.9, 0.0, 1.5],
        "frequency": [8.0, 1.0, 0.0, 2.0],
    }
    for criterion, values in expected.items():
        scored, dense = experts.scores(SUMS, criterion, seed=0)
        torch.testing.assert_close(scored, torch.tensor(values))
        assert len(dense) == 0


def test_random_is_seeded_and_knows_nothing():
    first, again, other = (experts.scores(SUMS, "random", seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_highest_stay_the_lower_index_of_equals():
    assert experts.kept(torch.tensor([3.0, 1.0, 2.0, 1.0]), 1, groups=1).tolist() == [0, 1, 2]


def test_every_group_keeps_as_many():
    scores = torch.tensor([9.0, 8.0, 7.0, 1.0, 2.0, 3.0])
    assert experts.kept(scores, 2, groups=2).tolist() == [0, 1, 4, 5]
