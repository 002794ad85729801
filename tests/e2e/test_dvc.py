"""What DVC makes of the pipeline: what reruns, what comes from the cache, what an experiment runs, what a failure leaves."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.e2e.project import OTHER_THRESHOLD, STAGES, contents, outs, ran

EVALUATIONS = [f"evaluate@{checkpoint}" for checkpoint in STAGES["evaluate"]["matrix"]["checkpoint"]]
ALL = {*STAGES, *EVALUATIONS} - {"evaluate"}
BEHIND_TUNING = {"evaluate@finetuned", "export", "evaluate_exported", "report"}
BEHIND_THRESHOLD = {"prune_neurons", "prune_embeddings", "evaluate@pruned", "finetune", *BEHIND_TUNING}
UP_TO_DATE = "Data and pipelines are up to date."


def outs_of(project):
    return outs((project.folder / "dvc.lock").read_text())


def test_first_run_makes_everything_and_nothing_that_git_would_pick_up(first_run):
    project = first_run.project
    assert sorted(ran(first_run.killed) + ran(first_run.resumed)) == sorted([*ALL, "finetune"])
    summary = json.loads((project.folder / "metrics/summary.json").read_text())
    assert 0 < summary["size_reduction"] < 1
    assert summary["bits_per_byte_ratio"] > 0
    assert (project.folder / "metrics/report.html").stat().st_size > 0
    committed = project.git("show", "--name-only", "--format=").split()
    assert committed
    assert all(name == "dvc.lock" or name.startswith("metrics/") for name in committed)
    not_cached = {path for path in outs_of(project) if path.startswith("metrics/")} - {"metrics/report.html"}  # files, and a folder
    tracked = project.git("ls-files", "metrics").split()
    assert {out for out in not_cached for name in tracked if Path(name).is_relative_to(out)} == not_cached
    assert all(any(Path(name).is_relative_to(out) for out in not_cached) for name in tracked)


def test_killed_finetune_resumed_where_it_was(first_run):
    assert "finetune" in ran(first_run.killed)
    assert ran(first_run.resumed)[0] == "finetune"
    first_shown = re.search(r"fine-tuning:.*?(\d+)/(\d+)", first_run.resumed)
    assert first_shown is not None
    assert [int(number) for number in first_shown.groups()] == [first_run.killed_after_step, 60]
    assert not (first_run.project.folder / ".scratch/finetune").exists()
    # That it equals an uninterrupted run to the bit is shown below, where all of it runs again.


def test_nothing_runs_when_nothing_changed(first_run):
    output = first_run.project.dvc("repro")
    assert ran(output) == []
    assert UP_TO_DATE in output


def test_threshold_reruns_what_is_behind_it(first_run, other_threshold):
    assert sorted(ran(other_threshold.there)) == sorted(BEHIND_THRESHOLD)
    at_first = contents(first_run.project.folder)
    changed = {name for name, digest in other_threshold.there_contents.items() if digest != at_first.get(name)}
    assert {"data/checkpoints/neurons_pruned/model.safetensors", "metrics/summary.json"} <= changed
    assert not any(name.startswith(("data/checkpoints/base", "data/prepared", "data/profile")) for name in changed)


def test_going_back_to_a_threshold_runs_nothing(first_run, other_threshold):
    assert ran(other_threshold.back) == []
    assert other_threshold.back_contents == contents(first_run.project.folder)


def test_queue_takes_what_it_can_from_the_cache_and_runs_the_rest_from_the_snapshot(project, other_threshold):
    """The other threshold's child is in the cache. Tuning it at a rate that is given runs, and tries no other rates."""
    at_first = contents(project.folder)
    settings = ["-S", f"threshold={OTHER_THRESHOLD}", "-S", "finetune.learning_rate=1e-4"]
    project.dvc("exp", "run", "--queue", "--name", "queued", *settings)
    output = project.run_queue("queued")
    # plan_budget and tune_parent leave notes.
    assert sorted(ran(output)) == sorted({"plan_budget", "finetune", "tune_parent", *BEHIND_TUNING})
    libraries = re.findall(r"^library: (.*)$", output, re.MULTILINE)
    assert len(libraries) == 3 + len(BEHIND_TUNING)
    assert all(path.startswith(f"{project.folder}/.dvc/tmp/exps/") for path in libraries)

    def metrics(name):
        there = json.loads(project.git("show", f"{project.experiment('queued')}:metrics/{name}.json"))
        return there, json.loads((project.folder / f"metrics/{name}.json").read_text())

    smaller, summary = metrics("summary")
    assert smaller["size_reduction"] > summary["size_reduction"]
    given, found = metrics("finetune")
    assert given["learning_rate"] == 1e-4 and given["learning_rates_tried"] == {}
    assert len(found["learning_rates_tried"]) >= 3
    assert contents(project.folder) == at_first


def test_temp_runs_the_snapshots_code_and_gives_the_same_bytes(project):
    """Every stage runs again, in another folder, uninterrupted, on code that only prints something else."""
    at_first = contents(project.folder)
    project.say("changed library")
    output = project.dvc("exp", "run", "--temp", "--name", "again")
    assert sorted(ran(output)) == sorted(ALL)
    libraries = re.findall(r"^changed library: (.*)$", output, re.MULTILINE)
    assert len(libraries) == len(ALL)
    assert all(path.startswith(f"{project.folder}/.dvc/tmp/exps/") for path in libraries)
    assert outs(project.git("show", f"{project.experiment('again')}:dvc.lock")) == outs_of(project)
    assert contents(project.folder) == at_first  # the workspace is left alone


@pytest.mark.parametrize(
    ("settings", "failing", "message"),
    [
        (
            ["threshold=1e9", "prune_neurons.allocation=per_layer", "prune_neurons.refit=none"],
            "prune_neurons",
            "error: params.yaml: this cut would empty layer 0 ",
        ),
        (["dataset.source=inputs/broken.jsonl"], "prepare_dataset", "error: inputs/broken.jsonl:3: not valid JSON "),
    ],
)
def test_bad_input_is_one_line_and_checkout_brings_everything_back(project, settings, failing, message):
    at_first = contents(project.folder)
    lines = (project.folder / "inputs/texts.jsonl").read_text().splitlines()
    (project.folder / "inputs/broken.jsonl").write_text("\n".join([*lines[:2], lines[2][:-1], *lines[3:]]))
    output = project.dvc("exp", "run", *(word for setting in settings for word in ("-S", setting)), fails=True)
    assert ran(output)[-1] == failing  # plan_budget may go before it: it reads prune_neurons' section
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith(message)
    assert "Traceback" not in output
    assert contents(project.folder) != at_first  # DVC removes a stage's outs before it runs
    project.restore()
    assert contents(project.folder) == at_first
    assert UP_TO_DATE in project.dvc("repro")


def test_a_misspelt_param_stops_dvc_before_anything_runs(project):
    at_first = contents(project.folder)
    output = project.dvc("exp", "run", "-S", "thresold=0.2", fails=True)
    assert ran(output) == []
    assert re.search(r"^ERROR: .*thresold", output, re.MULTILINE)
    assert contents(project.folder) == at_first
