"""A rehearsal of a tiny project, on the real path: every stage runs, or the one that refuses says so in a line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from minigpts.errors import UserError
from minigpts.rehearsal import running
from stages import rehearse
from tests import tiny
from tests.e2e.project import ROOT, STAGES, TINY, write_inputs, write_params

PARAMS = {**TINY, "finetune.learning_rate": 3e-3}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Callable[..., Path]:
    """Make a project with these changes to its params, and go there."""

    def make(**changes: object) -> Path:
        write_inputs(tmp_path)
        write_params(tmp_path / "params.yaml", {**PARAMS, **{name.replace("__", "."): value for name, value in changes.items()}})
        shutil.copyfile(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return make


def refusal() -> str:
    with pytest.raises(UserError) as stop:
        rehearse.main([])
    assert "\n" not in str(stop.value)
    return str(stop.value)


def test_every_stage_runs_and_the_run_is_predicted(project, monkeypatch, capsys):
    general = {"write_general__tokens": 64, "finetune__general": "parent", "finetune__general_share": 0.3}
    folder = project(budget__target_size_reduction=0.2, tune_parent=True, **general)
    before, ran, run = {*folder.rglob("*")}, [], running.run
    monkeypatch.setattr(running, "run", lambda stage, script, **how: (ran.append(stage), run(stage, script, **how)))
    rehearse.main([])
    items = [f"evaluate@{item}" for item in STAGES["evaluate"]["matrix"]["checkpoint"]]
    assert {*ran} == {*STAGES} - {"evaluate"} | {*items}
    predicted = re.findall(r"^(\S+) +[\d.]+ (?:s|min|h) +[\d.]+ GB$", capsys.readouterr().out, re.MULTILINE)
    assert set(predicted) - {"all"} <= {*ran}
    assert {"write_general", "measure_damage", "plan_budget", "finetune", "tune_parent", "export", "all"} <= {*predicted}
    assert {*folder.rglob("*")} == before, "it leaves nothing in the project"


@pytest.mark.parametrize("changes", [{"prune_neurons__experts": 3}, {"budget__target_size_reduction": 0.2}])
def test_a_mixture_of_experts_is_rehearsed(project, capsys, changes):
    folder = project(finetune__max_tokens=128, **changes)
    shutil.rmtree(folder / "inputs/model")
    tiny.write_checkpoint(folder / "inputs/model", "mixtral")
    rehearse.main([])
    assert re.search(r"^export +[\d.]+ s +[\d.]+ GB$", capsys.readouterr().out, re.MULTILINE)


def test_a_column_that_the_text_lacks_is_named_with_its_row(project):
    project(dataset__text_column="body")
    message = refusal()
    assert message.startswith("prepare_dataset: ")
    assert message.endswith("inputs/texts.jsonl:1: no column 'body'; there is text; set dataset.text_column")


def test_a_family_that_is_not_supported_is_named(project):
    path = project() / "inputs/model/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "mamba"}))
    assert refusal().startswith(
        f"fetch_model: {Path('inputs/model/config.json')}: model_type 'mamba' is not supported; supported: "
    )


def test_a_chat_template_that_breaks_is_named(project):
    (project() / "inputs/model/chat_template.jinja").write_text("{% for")
    assert refusal().startswith(f"fetch_model: {Path('inputs/model/chat_template.jinja')}: ")


def test_weights_that_are_cut_short_are_refused_by_their_header(project):
    path = project() / "inputs/model/model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert refusal().startswith("fetch_model: inputs/model/model.safetensors: not a readable safetensors file")


def test_more_layers_to_remove_than_the_parent_has(project):
    project(prune_neurons__layers=3)
    assert refusal() == "prune_neurons: params.yaml: prune_neurons.layers is 3, but the model has 3 layers"


def test_a_wrong_value_anywhere_is_refused_before_anything_is_read(project):
    shutil.rmtree(project(speech__tokens="many") / "inputs")
    assert refusal() == "params.yaml: speech.tokens must be of type int, got 'many'"


def test_a_format_that_no_row_of_the_parent_can_hold(project):
    project(budget__target_megabytes=0.1, budget__precisions=["Q8_0"])
    assert refusal().startswith("check_budget: params.yaml: budget.precisions: no row of this model can hold Q8_0, ")
