"""A prediction is work times measured costs; it grows with what the user asks for, and with nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from minigpts import params
from minigpts.model import checkpoint
from minigpts.model.weights import StoredWeights, num_parameters
from minigpts.rehearsal import costs, prediction
from minigpts.rehearsal.costs import Costs, Part
from minigpts.rehearsal.prediction import START, Prediction, Sizes, Work
from minigpts.training.recipe import Recipe
from tests import tiny
from tests.e2e.project import ROOT

RECIPE = replace(params.read(ROOT / "params.yaml", Recipe, "finetune"), learning_rate=1e-4, evaluations=1)
WORK = Work(1000, 0, 100, 400, 60, 300, 50, 10, RECIPE, False, True, False, 0, 0, 0, 600, 256, 0, 1.0)
COSTS = Costs(Part(1e-4, 1e-3), Part(3e-4, 2e-3), Part(1e-2, 1e-1), 1e-5, 0.5, 2.0, 1e-3)
SIZES = Sizes(layers=10, hidden=64, width=128, rows=500, parameters=10**8, outside=10**7, itemsize=2)


def needs(sizes: Sizes = SIZES, **changes: object) -> dict[str, prediction.Need]:
    return Prediction(sizes, replace(WORK, **changes), COSTS, 4096).stages()


def test_sizes_are_the_checkpoints(tmp_path):
    for family in ("llama", "gpt2", "gpt_neox"):  # tied, transposed, untied
        folder = tiny.write_checkpoint(tmp_path / family, family)
        shapes = StoredWeights(folder).shapes
        sizes = Sizes.of(checkpoint.load_config(folder), shapes)
        assert (sizes.layers, sizes.hidden, sizes.width, sizes.parameters) == (3, 40, 77, num_parameters(shapes))
        assert sizes.outside == sizes.rows * 40


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral", "gpt_oss"])  # a module for each expert, under two names, or one for all
def test_a_mixtures_width_is_that_of_the_experts_of_a_token(tmp_path, family):
    folder = tiny.write_checkpoint(tmp_path / family, family)
    sizes = Sizes.of(checkpoint.load_config(folder), StoredWeights(folder).shapes)
    assert (sizes.hidden, sizes.width) == (40, 3 * 24)


def test_a_forward_pass_takes_a_layers_time_for_each_layer():
    assert needs()["profile_activations"].seconds == pytest.approx(START + 1000 * 10 * 1e-4)
    assert needs(replace(SIZES, layers=20))["profile_activations"].seconds == pytest.approx(START + 1000 * 20 * 1e-4)


def test_tuning_takes_its_tokens_and_watches_the_validation():
    steps, watched = 49152 * (10 * 3e-4 + 2e-3), 2 * 160 * (10 * 1e-4 + 1e-3)
    assert needs()["finetune"].seconds == pytest.approx(START + steps + watched)
    assert needs(tuning=replace(RECIPE, learning_rate=None))["finetune"].seconds > START + steps + watched


def test_what_is_switched_off_is_not_predicted():
    always = {"profile_activations", "prune_neurons", "evaluate@base", "finetune", "evaluate@pruned", "evaluate@finetuned"}
    assert {*needs(export=0)} == always
    assert {*needs()} == always | {"export", "evaluate_exported"}
    assert {*needs(budget=True)} - {*needs()} == {"measure_damage", "plan_budget"}
    assert {*needs(tunes_parent=True)} - {*needs()} == {"tune_parent", "evaluate@tuned_parent"}
    assert {*needs(written=10)} - {*needs()} == {"write_general"}
    assert needs(refits=False)["prune_neurons"].seconds == START


def test_tuning_holds_sixteen_bytes_of_what_it_tunes_and_four_of_the_rest():
    frozen, everything = needs()["finetune"].memory, needs(tuning=replace(RECIPE, freeze_embeddings=False))["finetune"].memory
    adapters = needs(tuning=replace(RECIPE, lora_rank=8))["finetune"].memory
    assert everything - frozen == pytest.approx(12 * SIZES.outside)
    assert frozen - adapters == pytest.approx(12 * (SIZES.parameters - SIZES.outside))


def test_a_smaller_child_needs_less_and_its_parent_the_same():
    whole, half = needs(), needs(kept=0.5)
    assert half["evaluate@base"] == whole["evaluate@base"]
    assert all(half[name].seconds < whole[name].seconds for name in ("finetune", "evaluate@finetuned", "export"))
    assert Prediction(SIZES, replace(WORK, kept=0.5), COSTS, 1).disk() < Prediction(SIZES, WORK, COSTS, 1).disk()


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma2", "lfm2"])  # transposed, projected, capped, convolved
def test_every_cost_is_measured(tmp_path, family):
    folder = tiny.write_checkpoint(tmp_path / "tiny", family)
    runtime = params.Runtime(batch_tokens=512, num_threads=1, launcher=None)
    found = costs.measure(folder, replace(RECIPE, sequence_length=64), runtime, torch.device("cpu"))
    assert min(found.forward.layer, found.forward.head, found.step.layer, found.rounded_layer, found.rounded_row) > 0
    assert found.refit + found.refit_token > 0
    assert found.forward(30) == pytest.approx(30 * found.forward.layer + found.forward.head)


def test_times_and_sizes_read_well():
    assert [prediction.duration(seconds) for seconds in (8.2, 119, 150, 3599, 20000, 10**6)] == [
        "8 s",
        "119 s",
        "2.5 min",
        "60 min",
        "5.6 h",
        "12 days",
    ]
    assert prediction.text(needs()).splitlines()[-1].split()[0] == "all"
