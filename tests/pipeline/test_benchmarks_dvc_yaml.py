"""benchmarks/dvc.yaml tunes and evaluates the parent exactly as dvc.yaml does the child."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.pipeline.test_dvc_yaml import DVC_YAML, ROOT, WRITTEN, is_code, listed

BESIDE = yaml.safe_load((ROOT / "benchmarks/dvc.yaml").read_text(encoding="utf-8"))["stages"]
PAIRS = pytest.mark.parametrize(("beside", "stage"), [("tune_parent", "finetune"), ("evaluate_tuned_parent", "evaluate")])


@PAIRS
def test_same_script_same_code_same_params(beside, stage):
    ours, theirs = BESIDE[beside], DVC_YAML[stage]
    assert ours["wdir"] == ".."
    assert ours["cmd"].split()[:3] == theirs["cmd"].split()[:3]
    assert [dep for dep in ours["deps"] if is_code(dep)] == [dep for dep in theirs["deps"] if is_code(dep)]
    assert ours["params"] == theirs["params"]


@PAIRS
def test_paths_of_the_command_are_declared(beside, stage):
    spec = BESIDE[beside]
    paths = set(re.findall(r"(?:data|metrics)/\S+", spec["cmd"]))
    assert paths == {path for path in listed(spec, "deps", *WRITTEN) if not is_code(path)}


def test_outs_are_cached_and_figures_go_into_git():
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    for spec in BESIDE.values():
        assert all(f"/{path}" in ignored and settings.get("cache", True) for path, settings in listed(spec, "outs").items())
        assert all(settings == {**settings, "cache": False} for settings in listed(spec, "metrics", "plots").values())
