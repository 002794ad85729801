"""The search on curves made by hand: it takes first what costs nothing, lands, and refuses what can't be had."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from minigpts.budget.accounting import Outline, child_shapes, weights_bytes
from minigpts.budget.curves import Curve, Curves, Damage, halved, ratio_error
from minigpts.budget.search import choose, freed, num_equal
from minigpts.budget.space import Limit, Space
from minigpts.errors import UserError
from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from minigpts.model.weights import StoredWeights, num_parameters
from minigpts.pruning.neurons import NeuronScores
from minigpts.quantization.formats import FORMATS, num_bytes
from minigpts.quantization.groups import GROUPS, formats_of
from tests import tiny

NOTHING = Curve([0], [0.0])
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
    return Curves(curve("vocabulary", tokens), curve("neurons", 0.9), curve("heads", 1), curve("layers", 3), NOTHING)


@pytest.mark.parametrize("kind", ["vocabulary", "neurons", "heads", "layers"])
def test_what_is_worthless_goes_first(space: Space, kind: str):
    total = num_parameters(space.shapes)
    share = {"vocabulary": 0.03, "neurons": 0.3, "heads": 0.15, "layers": 0.43}[kind]
    ((choice, outline, _),) = choose(space, curves(space, **{kind: True}), Limit(round(total * (1 - share)), False, "x"), 1)[0]
    taken = freed(space, outline, choice.formats, space.shapes["model.embed_tokens.weight"][0])
    assert taken[{"neurons": "MLP"}.get(kind, kind)] > 0.85 * sum(taken.values())
    assert sum(taken.values()) == (total - num_parameters(space.child(outline))) * 4
    assert choice.damage < 0.05


def test_of_all_combinations_the_least_damage_is_found(space: Space):
    """Against brute force over every head, layer, width and token count."""
    found, limit = curves(space), Limit(round(0.6 * num_parameters(space.shapes)), False, "x")
    choice = choose(space, found, limit, 7)[0][0].choice
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
    limit = Limit(round(num_parameters(space.shapes) * (1 - share)), False, "x")
    choice, outline, size = choose(space, curves(space), limit, 32)[0][0]
    assert size == num_parameters(space.child(outline))
    assert 0.99 * limit.most <= size <= limit.most
    assert allocation == "adaptive" or len(set(outline.widths)) == 1
    assert sum(outline.widths) == choice.num_kept_neurons


NAMES = ("IQ4_NL", "Q8_0")
HEADER = 900  # and what a token and a tensor add to it: odd numbers, and more than the search interpolates between


def header_bytes(outline: Outline) -> int:
    return HEADER + 13 * outline.num_rows + outline.num_rows // 7 + 71 * len(outline.layers)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Space:
    """A space of bits, too: rows that blocks of 32 divide, and a file that is its tensors and a made-up header."""
    folder = tmp_path_factory.mktemp("blocks") / "model"
    shapes = StoredWeights(tiny.write_checkpoint(folder, hidden_size=64, head_dim=16, intermediate_size=96)).shapes
    scores = [torch.rand(96, generator=torch.Generator().manual_seed(index)) for index in range(3)]
    space = Space(
        shapes=shapes,
        dtype=torch.float32,
        spec=spec_for("llama"),
        num_groups=2,
        layer_scores=torch.arange(3.0),
        scores=NeuronScores(scores, scores, scores),
        vocabulary_sizes=np.arange(260, shapes["model.embed_tokens.weight"][0] + 1),
        allocation="uniform",
        head_options=[1],
        layer_options=[1],
        precisions=NAMES,
    )

    def exact(outline: Outline, num_counted: int, formats: dict[str, str]) -> int:
        return tensor_bytes(space, outline, formats) + header_bytes(outline)

    return replace(space, file_size=exact)


def tensor_bytes(space: Space, outline: Outline, formats: dict[str, str]) -> int:
    shapes = space.child(outline)
    found = formats_of("llama", shapes, formats)
    return sum(num_bytes(found.get(name, FORMATS["F32"]), shape) for name, shape in shapes.items())


def rounding(documents: int = 0) -> dict[str, dict[str, Damage]]:
    """The more so the further down in GROUPS."""
    return {
        group: {name: Damage(cost * (place + 1), 0.01, [cost] * documents) for name, cost in zip(NAMES, (0.03, 0.001), strict=True)}
        for place, group in enumerate(GROUPS)
    }


@pytest.mark.parametrize("most", [40_000, 60_000, 90_000, 120_000])
def test_of_all_formats_and_cuts_the_least_damage_is_found(blocks: Space, most: int):
    """Against brute force over every format of every group, head, layer, width and token count, with exact sizes."""
    found = replace(curves(blocks), layers=Curve([0, 1], [0.0, 0.3]), rounding=rounding())
    limit, (plan, *_) = Limit(most, True, "x"), choose(blocks, found, Limit(most, True, "x"), 32)[0]
    best = np.inf
    for each in itertools.product(NAMES, repeat=len(GROUPS)):
        formats = dict(zip(GROUPS, each, strict=True))
        for groups, num_layers, width in itertools.product((0, 1), (0, 1), (32, 64, 96)):
            if 1 - width / 96 > 0.9:
                continue
            kept = blocks.depths[num_layers].layers
            bare = Outline(kept, 2 - groups, [width] * len(kept), 0)
            size = tensor_bytes(blocks, bare, formats)
            row = tensor_bytes(blocks, replace(bare, num_rows=1), formats) - size
            fitting = [n for n in blocks.vocabulary_sizes if size + row * n + header_bytes(replace(bare, num_rows=int(n))) <= most]
            if not fitting or size + row * fitting[-1] + header_bytes(replace(bare, num_rows=int(fitting[-1]))) < 0.99 * most:
                continue
            parts = [found.heads.at(groups), found.layers.at(num_layers), found.neurons.at(1 - width / 96)]
            parts += [found.vocabulary.at(blocks.vocabulary_sizes[-1] - fitting[-1])]
            best = min(best, float(sum(parts)) + sum(found.rounding[g][f].bits_per_byte for g, f in formats.items()))
    assert 0.99 * most <= plan.size <= limit.most
    assert plan.choice.damage == pytest.approx(best, abs=0.02)  # a token or two less, where the header is interpolated


def test_plans_of_different_shape_and_those_that_are_equal(blocks: Space):
    """With documents that all lose alike there is no error, and no plan is as good; with others all of them are."""
    alike = Curve([0, 1], [0.0, 0.3], [0.0, 0.01], [[0.0] * 3, [30.0] * 3])
    kinds = {"vocabulary": float(blocks.vocabulary_sizes[-1] - 260), "neurons": 0.9, "heads": 1.0, "layers": 1.0}
    for spread, equal in ((0.0, False), (1e6, True)):
        documents = [[0.0] * 3, [spread, 0.0, -spread]]
        found = Curves(
            **{kind: replace(alike, units=[0, most], documents=documents) for kind, most in kinds.items()},
            experts=NOTHING,
            rounding={
                group: {
                    name: replace(damage, documents=[(name == "Q8_0") * bits for bits in documents[1]])
                    for name, damage in each.items()
                }
                for group, each in rounding(3).items()
            },
            document_bytes=[100, 100, 100],
        )
        plans, candidates = choose(blocks, found, Limit(60_000, True, "x"), 32, 3)
        shapes = {(plan.choice.formats, plan.choice.num_removed_layers, plan.choice.num_removed_groups) for plan in plans}
        assert len(plans) == 3 and len(shapes) >= 2
        assert [plan.choice.damage for plan in plans] == sorted(plan.choice.damage for plan in plans)
        others = num_equal(candidates, plans[0].choice, blocks, found)
        assert (others > 0.9 * (len(candidates) - 1)) if equal else others == 0


def test_the_standard_error_is_that_of_a_ratio_by_hand():
    """Three documents of 10, 20 and 30 bytes lose 1, 2 and 6 bits: 9/60 = 0.15 a byte; residuals −0.5, −1 and 1.5."""
    assert ratio_error([1.0, 2.0, 6.0], [10, 20, 30]) == pytest.approx(np.sqrt(3 / 2 * (0.25 + 1 + 2.25)) / 60)
    assert ratio_error([[1.0, 2.0, 3.0], [1.0, 2.0, 6.0]], [10, 20, 30])[0] == 0
    assert ratio_error([1.0], [10]) == np.inf


def test_what_cannot_be_met_is_said(space: Space, stored: StoredWeights):
    with pytest.raises(UserError, match=r"budget.target_size_reduction 0.95 is less than what can't go \([\d,]+ parameters: "):
        choose(space, curves(space), Limit.of(stored, 0.95, None), 32)
    with pytest.raises(UserError, match=r"megabytes 7 is no less than the parent's weights have \(0\.\d+ MB\); lower"):
        Limit.of(stored, None, 7)
    stiff = replace(space, head_options=[], layer_options=[1])
    few = Curves(NOTHING, NOTHING, NOTHING, Curve([0, 1], [0.0, 0.1]), NOTHING)
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
