"""The parent tuned beside the pipeline, and sizes queued as experiments: real git, DVC and queue; the stages stand in."""

from __future__ import annotations

import csv
import json
import re

import pytest

from benchmarks.experiments import frontier
from minigpts.errors import UserError
from tests.e2e.project import ran
from tests.e2e.stand_in import StandIn

COLUMNS = "data,size_reduction,bytes_reduction,tuned_tokens,perplexity,bits_per_byte,acc,perplexity_parent,perplexity_tuned_parent"
TUNED_PARENT = ["tune_parent", "evaluate@tuned_parent"]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> StandIn:
    project = StandIn(tmp_path_factory.mktemp("frontier"))
    project.first = project.dvc("repro")
    project.commit("the run")
    return project


def test_without_questions_there_is_a_row_and_a_picture():
    scored = {"perplexity": 9.0, "bits_per_byte": 0.9, "checkpoint_bytes": 10**8}
    stems = {name: scored for name in ("base", "finetuned", "tuned_parent")}
    point = frontier.Point({**stems, "summary": {"size_reduction": 0.4}, "finetune": {"tokens": 5120}})
    assert point.row("law")["acc"] is None
    assert frontier.picture([point], "law").png().startswith(b"\x89PNG")


def test_frontier(project, monkeypatch, capsys):
    """One size fails, the others are collected; damage is measured, and the parent tuned, once; other rows stay."""
    monkeypatch.chdir(project.folder)
    for name, value in project.env.items():
        monkeypatch.setenv(name, value)
    out = project.folder / "frontier.csv"
    out.write_text(f"{COLUMNS}\nlaw,0.5,0.5,1,1,1,1,1,1\nmedical,0.25,0.1,1,1,1,1,1,1\n")
    frontier.main(["--sizes", "0.25", "0.5", "0.95", "--set", "finetune.max_tokens=5120", "--out", str(out)])

    with out.open() as file:
        assert file.readline().strip() == COLUMNS
        law, quarter, half = csv.DictReader(file, COLUMNS.split(","))
    assert law["data"] == "law"
    expected = {"tuned_tokens": 5120, "perplexity_parent": 10, "perplexity_tuned_parent": 5}
    for row, size in ((quarter, 0.25), (half, 0.5)):
        left = 1 - size
        figures = {"size_reduction": size, "perplexity": 5 / left, "bits_per_byte": 1 / left, "acc": 0.5 * left, **expected}
        assert {name: float(row[name]) for name in figures} == pytest.approx(figures)
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    failed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("size ")]
    assert failed == ["size 0.95 failed: error: params.yaml: this cut would empty layer 0 (dvc queue logs frontier-medical-950)"]

    before = out.read_bytes()
    frontier.main(["--sizes", "0.5", "--collect", "--out", str(out)])
    assert out.read_bytes() == before
    with monkeypatch.context() as patched:
        patched.setattr(frontier.queue, "status", lambda: {"frontier-medical-500": "running"})
        with pytest.raises(UserError, match="first `dvc queue kill frontier-medical-500`"):
            frontier.main(["--sizes", "0.5", "--out", str(out)])

    logs = {name: project.dvc("queue", "logs", f"frontier-medical-{name}") for name in ("250", "500")}
    assert sorted(sum(stage in TUNED_PARENT for stage in ran(log)) for log in logs.values()) == [0, 2]
    assert sorted(ran(log).count("measure_damage") for log in logs.values()) == [0, 1]
    lock = project.git("show", f"{project.experiment('frontier-medical-500')}:dvc.lock")
    assert len(re.findall(r"path: data/checkpoints/tuned_parent$", lock, re.MULTILINE)) == 2  # an out, and a dep
    assert json.loads((project.folder / "metrics/finetuned.json").read_text())["size_reduction"] == 0  # the workspace is left alone

    again = {f"frontier-medical-{name}": ["budget.target_size_reduction=0.5"] for name in ("500", "950")}  # finished, and failed
    frontier.queue.queue(again)
    assert {name: frontier.queue.status()[name] for name in again} == dict.fromkeys(again, "queued")
