"""Run as a script: kills the finetune stage with SIGKILL at a named call, runs it again, and says what came out.

One process imports torch once and forks for each run. Arguments: the folder made by test_finetune.py, and kill points
``module:function:n`` (before the n-th call of that function). Prints one JSON object: kill point ("" for a run in
peace) -> hash of the outs, steps taken by the last run, whether a first run was killed. ``module:CONSTANT=number`` among the
kill points sets a constant for all runs.
"""

import hashlib
import importlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from stages import finetune  # isort: split

import torch
from transformers import Trainer

from minigpts.model import checkpoint  # noqa: F401 -- imported before forking, as all of this
from minigpts.training import data, probe, trainer  # noqa: F401


def arguments(folder: Path) -> list[str]:
    """The stage's flags for the folder."""
    paths = {
        "model": "pruned",
        "train": "train.parquet",
        "validation": "validation.parquet",
        "parent": "base.json",
        "questions": "mcq.jsonl",
        "general": "general.parquet",
        "written": "written.parquet",
        "teacher": "teacher",
        "params": "params.yaml",
        "scratch": "scratch",
        "out": "out/finetuned",
        "metrics": "out/finetune.json",
        "curve": "out/recovery.csv",
    }
    return [text for name, path in paths.items() for text in (f"--{name}", str(folder / path))]


def before_call(path: str, action: Callable[[int], object]) -> None:
    """Call ``action`` with the number of the call before every call of ``module:function`` or ``module:class.method``."""
    module, _, name = path.partition(":")
    holder = importlib.import_module(module)
    *parents, attribute = name.split(".")
    for parent in parents:
        holder = getattr(holder, parent)
    original, calls = getattr(holder, attribute), []

    def counting(*args: object, **kwargs: object) -> object:
        calls.append(1)
        action(len(calls))
        return original(*args, **kwargs)

    setattr(holder, attribute, counting)


def _run(folder: Path, kill_point: str) -> int:
    """Run the stage in a fork, to be killed at the point; gives the signal that ended it, 0 for none."""
    shutil.rmtree(folder / "out", ignore_errors=True)  # as DVC does before it runs a stage
    process = os.fork()
    if process == 0:
        steps = folder / "steps"
        before_call("transformers:Trainer.training_step", lambda number: steps.write_text(str(number)))
        if kill_point:
            path, _, number = kill_point.rpartition(":")
            before_call(path, lambda n: os.kill(os.getpid(), signal.SIGKILL) if n == int(number) else None)
        steps.write_text("0")
        finetune.main(arguments(folder))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _outs(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str(path.relative_to(folder)).encode() + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()


def main(folder: Path, kill_points: list[str]) -> None:
    """Do all runs."""
    torch.set_num_threads(1)
    assert Trainer is not None
    results = {}
    for setting in (point for point in kill_points if "=" in point):
        name, value = setting.split("=")
        module, _, constant = name.partition(":")
        setattr(importlib.import_module(module), constant, int(value))
    for kill_point in (point for point in kill_points if "=" not in point):
        killed = bool(kill_point) and _run(folder, kill_point) == -signal.SIGKILL
        assert _run(folder, "") == 0
        results[kill_point] = {
            "outs": _outs(folder / "out"),
            "steps": int((folder / "steps").read_text()),
            "killed": killed,
            "scratch_is_gone": not (folder / "scratch").exists(),
        }
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
