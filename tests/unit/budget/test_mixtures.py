"""A mixture's budget on the real path: experts are planned, accounted for, measured and removed, to the last parameter and byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minigpts import artifacts
from minigpts.budget.accounting import Outline, child_shapes
from minigpts.budget.curves import Curve, Curves
from minigpts.budget.search import choose, freed
from minigpts.budget.space import Limit, Space
from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from minigpts.model.weights import num_parameters
from minigpts.pruning.neurons import NeuronScores
from tests import tiny
from tests.unit.budget.project import Project
from tests.unit.budget.test_plan_budget import exported_bytes

BLOCKS: dict[str, Any] = {"hidden_size": 64, "head_dim": 16, "moe_intermediate_size": 32}  # rows that blocks of 32 divide
NONE = torch.empty(0, dtype=torch.float64)


@pytest.mark.parametrize(
    ("family", "changes", "refit", "share"),
    [
        ("mixtral", {}, "least_squares", 0.4),  # a module an expert, under older names
        ("gpt_oss", {}, "none", 0.4),  # experts joined, with biases
        ("glm4_moe", tiny.MIXTURE_VARIANTS["glm4_moe in groups, the first layer dense"][1], "none", 0.3),  # no layer can go
    ],
)
def test_planned_is_real_and_lands(tmp_path: Path, family: str, changes: dict[str, Any], refit: str, share: float):
    """More than layers, heads and tokens hold between them: experts have to go."""
    project = Project(tmp_path, family, **changes)
    planned = project.plan({"target_size_reduction": share}, refit=refit)
    sizes, number = checkpoint.sizes(project.cut()), spec_for(family).experts.number_field
    for name in ("num_parameters", "checkpoint_bytes", "vocab_size"):
        assert planned[name] == sizes[name]
    most = (1 - share) * project.sizes["num_parameters"]
    assert 0.99 * most <= sizes["num_parameters"] <= most
    before, after = (getattr(checkpoint.load_config(folder), number) for folder in (project.base, project.folder / "pruned"))
    assert before - after == planned["num_removed_experts"] == artifacts.read_json(tmp_path / "neurons.json")["num_removed_experts"]
    assert planned["num_removed_experts"] > 0
    rows = artifacts.read_csv(tmp_path / "plan.csv")
    chosen = {row["kind"]: int(row["bytes_freed"]) for row in rows if row["chosen"] == "True"}
    assert set(chosen) == {"vocabulary", "experts", "heads", "layers"} and chosen["experts"] > 0
    assert sum(chosen.values()) == (project.sizes["num_parameters"] - sizes["num_parameters"]) * 4
    measured = [row for row in rows if row["kind"] == "experts" and row["chosen"] == "False"]
    assert [int(row["level"]) for row in measured] == sorted({int(row["level"]) for row in measured})
    assert float(measured[0]["damage"]) == 0 and any(abs(float(row["damage"])) > 1e-6 for row in measured[1:])


def test_the_written_file_has_the_planned_bytes_and_lands(tmp_path: Path):
    project = Project(tmp_path, "qwen3_moe", **BLOCKS)
    most = round(0.1 * project.sizes["checkpoint_bytes"])  # of 32 bits a weight
    planned = project.plan({"target_megabytes": most / 1e6})
    assert planned["num_removed_experts"] > 0
    assert planned["file_bytes"] == exported_bytes(project, planned)
    assert 0.99 * most <= planned["file_bytes"] <= most


def test_of_all_cuts_the_least_damage_is_found():
    """Against brute force over every head, layer, expert and token count."""
    config = tiny.config("qwen2_moe", 400, num_hidden_layers=4)
    config.dtype = torch.float32
    shapes, spec = checkpoint.stored_shapes(config), spec_for("qwen2_moe")
    space = Space(
        shapes=shapes,
        dtype=torch.float32,
        spec=spec,
        num_groups=2,
        layer_scores=torch.arange(4.0),
        scores=NeuronScores([NONE] * 4, [NONE] * 4, [NONE] * 4),
        vocabulary_sizes=np.arange(260, 401),
        allocation="uniform",
        head_options=[1],
        layer_options=[1, 2],
        num_experts=9,
        expert_options=range(1, 7),
    )
    steep, nothing = [0.0, 0.4, 1.0], Curve([0], [0.0])
    found = Curves(Curve([0, 70, 140], steep), nothing, Curve([0, 1], [0.0, 0.3]), Curve([0, 1, 2], steep), Curve([0, 3, 6], steep))
    limit, best = Limit(round(0.5 * num_parameters(shapes)), False, "x"), np.inf
    for groups in (0, 1):
        for number in range(3):
            for removed in range(7):
                bare = Outline(space.depths[number].layers, 2 - groups, [0] * (4 - number), 0, 9 - removed)
                size = num_parameters(child_shapes(shapes, spec, 2, bare))
                rows = min((limit.most - size) // 80, 400)  # untied: a token has two rows of 40
                if rows >= 260 and size + 80 * rows >= 0.99 * limit.most:
                    damage = found.heads.at(groups) + found.layers.at(number) + found.experts.at(removed)
                    best = min(best, float(damage + found.vocabulary.at(400 - rows)))
    choice, outline, size = choose(space, found, limit, 32)[0][0]
    assert choice.damage == pytest.approx(best) and choice.num_removed_experts > 0
    assert size == num_parameters(space.child(outline)) <= limit.most
    assert sum(freed(space, outline, (), 400).values()) == (num_parameters(shapes) - size) * 4


@pytest.mark.parametrize("variant", tiny.MIXTURE_VARIANTS)
def test_an_uncut_child_has_the_parents_shapes(variant: str):
    family, changes = tiny.MIXTURE_VARIANTS[variant]
    config, spec = tiny.config(family, 300, **changes), spec_for(family)
    config.dtype = torch.float32
    shapes, number = checkpoint.stored_shapes(config), getattr(config, spec.experts.number_field)
    assert child_shapes(shapes, spec, 2, Outline(range(3), 2, [0] * 3, 300, number)) == shapes
    setattr(config, spec.experts.number_field, number - 3)
    assert child_shapes(shapes, spec, 2, Outline(range(3), 2, [0] * 3, 300, number - 3)) == checkpoint.stored_shapes(config)
