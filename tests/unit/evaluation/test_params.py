"""A wrong window is refused by name by every stage that reads it, before anything is loaded."""

import importlib
from pathlib import Path

import pytest
import yaml

from minigpts.errors import UserError
from minigpts.params import read

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("stage", ["evaluate", "finetune"])
@pytest.mark.parametrize("value", [0, -1, 2.5, None])
def test_a_window_without_a_token_is_refused(tmp_path, stage, value):
    settings = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    settings["evaluate"]["sequence_length"] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    flags = {
        "evaluate": ("model", "base", "validation", "test", "questions", "metrics", "replies"),
        "finetune": ("model", "train", "validation", "parent", "out", "metrics", "curve"),
    }[stage]
    argv = [part for flag in flags for part in (f"--{flag}", str(tmp_path / flag))]
    with pytest.raises(UserError, match=r"evaluate\.sequence_length"):
        importlib.import_module(f"stages.{stage}").main([*argv, "--params", str(tmp_path / "params.yaml")])


@pytest.mark.parametrize("stage", ["prune_neurons", "finetune"])
@pytest.mark.parametrize("value", [-1, 2**32])
def test_a_seed_that_no_generator_takes_is_refused(tmp_path, stage, value):
    settings = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    settings[stage]["seed"] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    with pytest.raises(UserError, match=rf"{stage}\.seed"):
        read(tmp_path / "params.yaml", importlib.import_module(f"stages.{stage}").Params, stage)
