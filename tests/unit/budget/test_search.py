"""The search on curves made by hand: it takes first what costs nothing, lands, and refuses what can't be had."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from minigpts.budget.accounting import Outline, child_shapes, weights_bytes
from minigpts.budget.curves import Curve, Curves, halved
from minigpts.budget.search import choose, freed
from minigpts.budget.space import Limit, Space
from minigpts.errors import UserError
from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from minigpts.model.weights import StoredWeights, num_parameters
from minigpts.pruning.neurons import NeuronScores
from tests import tiny

FREE = 1e-6  # damage of what is made worthless, in bits per byte


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredWeights:
    return StoredWeights(tiny.write_checkpoint(tmp_path_factory.mktemp("parent") / "model", num_hidden_layers=6))


@pytest.fixture
def space(stored: StoredWeights) -> Space:
    rows = stored.shapes["model.embed_tokens.weight"][0]
    scores = [torch.rand(77, generator=torch.Generator().manual_seed(index)) for index in range(6)]
    return Space(
        shapes=stored.shapes,
        dtype=torch.float32,
        spec=spec_for("llama"),
        num_groups=2,
        layer_scores=torch.arange(6.0),
        scores=NeuronScores(scores, scores, scores),
        vocabulary_sizes=np.arange(260, rows + 1),
        allocation="uniform",
        head_options=[1],
        layer_options=[1, 2, 3],
    )


def curves(space: Space, **free: bool) -> Curves:
    """Every resource costs 1 bit per byte at its most, but those that are ``free``."""

    def curve(kind: str, most: float) -> Curve:
        return Curve([0, most / 2, most], [0.0, 0.0, FREE] if kind in free else [0.0, 0.4, 1.0])

    tokens = float(space.vocabulary_sizes[-1] - space.vocabulary_sizes[0])
    return Curves(curve("vocabulary", tokens), curve("neurons", 0.9), curve("heads", 1), curve("layers", 3))


@pytest.mark.parametrize("kind", ["vocabulary", "neurons", "heads", "layers"])
def test_what_is_worthless_goes_first(space: Space, kind: str):
    total = num_parameters(space.shapes)
    share = {"vocabulary": 0.03, "neurons": 0.3, "heads": 0.15, "layers": 0.43}[kind]
    choice, outline = choose(space, curves(space, **{kind: True}), Limit(round(total * (1 - share)), False, "x"), 1)
    taken = freed(space, outline, space.shapes["model.embed_tokens.weight"][0])
    assert taken[{"neurons": "MLP"}.get(kind, kind)] > 0.85 * sum(taken.values())
    assert sum(taken.values()) == (total - num_parameters(space.child(outline))) * 4
    assert choice.damage < 0.05


def test_of_all_combinations_the_least_damage_is_found(space: Space):
    """Against brute force over every head, layer, width and token count."""
    found, limit = curves(space), Limit(round(0.6 * num_parameters(space.shapes)), False, "x")
    choice, _ = choose(space, found, limit, 7)
    best = np.inf
    for groups in (0, 1):
        for num_layers in range(4):
            kept = space.depths[num_layers].widths
            for width in [*range(7, 78, 7), 77]:
                if 1 - width / 77 > 0.9:
                    continue
                bare = Outline(range(len(kept)), 2 - groups, [width] * len(kept), 0)
                rows = min((limit.most - num_parameters(space.child(bare))) // 40, int(space.vocabulary_sizes[-1]))
                size = num_parameters(space.child(replace(bare, num_rows=rows))) if rows >= 260 else 0
                if size >= 0.99 * limit.most:
                    tokens = space.vocabulary_sizes[-1] - rows
                    parts = (found.heads.at(groups), found.layers.at(num_layers), found.neurons.at(1 - width / 77))
                    best = min(best, float(sum(parts) + found.vocabulary.at(tokens)))
    assert choice.damage == pytest.approx(best)


@pytest.mark.parametrize("allocation", ["uniform", "adaptive"])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.31, 0.5, 0.7])
def test_every_limit_is_met_within_a_percent_and_never_passed(space: Space, allocation: str, share: float):
    space = replace(space, allocation=allocation)
    whole = weights_bytes(space.shapes, torch.float32)
    limit = Limit(round(whole * (1 - share)), True, "x")
    choice, outline = choose(space, curves(space), limit, 32)
    size = weights_bytes(space.child(outline), torch.float32)
    assert 0.99 * limit.most <= size <= limit.most
    assert allocation == "adaptive" or len(set(outline.widths)) == 1
    assert sum(outline.widths) == choice.num_kept_neurons


def test_what_cannot_be_met_is_said(space: Space, stored: StoredWeights):
    with pytest.raises(UserError, match=r"^params.yaml: budget.target_megabytes 0.03 is less than what can't go \(0\.\d+ MB: "):
        choose(space, curves(space), Limit.of(stored, None, 0.03), 32)
    with pytest.raises(UserError, match=r"budget.target_size_reduction 0.95 is less than what can't go \([\d,]+ parameters: "):
        choose(space, curves(space), Limit.of(stored, 0.95, None), 32)
    with pytest.raises(UserError, match=r"megabytes 7 is no less than the parent's weights have \(0\.\d+ MB\); lower"):
        Limit.of(stored, None, 7)
    nothing = Curve([0], [0.0])
    stiff = replace(space, head_options=[], layer_options=[1])
    few = Curves(nothing, nothing, nothing, Curve([0, 1], [0.0, 0.1]))
    with pytest.raises(UserError, match=r"nothing lands within 1 % below .* the nearest cut leaves [\d,]+ parameters: "):
        choose(stiff, few, Limit(round(0.95 * num_parameters(space.shapes)), False, "x"), 32)


def test_bytes_are_those_of_the_file(stored: StoredWeights):
    assert weights_bytes(stored.shapes, torch.float32) == stored.path.stat().st_size


@pytest.mark.parametrize("variant", tiny.VARIANTS)
def test_an_uncut_child_has_the_parents_shapes(variant: str):
    family, changes = tiny.VARIANTS[variant]
    config, spec = tiny.config(family, 300, **changes), spec_for(family)
    config.dtype = torch.float32
    shapes = checkpoint.stored_shapes(config)
    assert child_shapes(shapes, spec, 2, Outline(range(3), 2, [77] * 3, 300)) == shapes


def test_a_curve_goes_through_its_points_and_only_rises_between_rising_ones():
    curve = Curve([0, 1, 3, 4], [0.0, 0.1, 0.2, 2.0])
    np.testing.assert_allclose(curve.at(np.array([0, 1, 3, 4])), curve.damage)
    assert (np.diff(curve.at(np.linspace(0, 4, 200))) >= 0).all()
    assert Curve([0], [0.0]).at(np.zeros(3)).tolist() == [0, 0, 0]


def test_levels_are_halved_and_end_at_the_last():
    assert halved(range(1, 16), 4) == [2, 4, 8, 15]
    assert halved([1, 2], 3) == [1, 2]
    assert halved([], 3) == []
