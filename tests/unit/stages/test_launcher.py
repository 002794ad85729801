"""What starts a stage's processes: one line where it fails or loses one, and nothing that runs on behind a killed stage."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml

from tests.unit.stages.test_ranks import SECTIONS, flags, write_inputs

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="these processes are on CPUs, and NCCL takes one a GPU")


def stage(folder: Path, launcher: str, **environment: str) -> subprocess.Popen[str]:
    """Start a stage as DVC does, through a launcher."""
    sections = yaml.safe_load((folder / "params.yaml").read_text())
    sections["runtime"]["launcher"] = launcher
    (folder / "params.yaml").write_text(yaml.safe_dump(sections))
    given = {"model": "model", "train": "train.parquet", "validation": "validation.parquet", "parent": "base.json"}
    written = {"out": "tuned", "metrics": "finetune.json", "curve": "recovery.csv", "scratch": "scratch"}
    command = [
        sys.executable,
        "-m",
        "stages.finetune",
        *flags(folder, folder / "out", {**given, "questions": "mcq.jsonl"}, written),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})


def running(folder: Path) -> list[int]:
    """Processes whose command names the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def none_left(folder: Path, seconds: float = 20) -> bool:
    """Whether no such process runs after a while at most."""
    end = time.monotonic() + seconds
    while running(folder) and time.monotonic() < end:
        time.sleep(0.05)
    return not running(folder)


KILLER = """
import os, signal, threading, time
from pathlib import Path

def watch():
    while not any(Path({scratch!r}).glob("*/checkpoint-*/curve.jsonl")):
        time.sleep(0.002)
    os.kill(os.getpid(), signal.SIGKILL)

if os.environ.get("RANK") == "1":
    threading.Thread(target=watch, daemon=True).start()
"""


def test_a_process_of_torchrun_killed_is_one_line_and_leaves_a_checkpoint_and_no_orphan(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    (tmp_path / "startup").mkdir()
    (tmp_path / "startup/sitecustomize.py").write_text(KILLER.format(scratch=str(tmp_path / "out/scratch")))
    paths = os.pathsep.join([str(tmp_path / "startup"), *filter(None, [os.environ.get("PYTHONPATH")])])
    (tmp_path / "out").mkdir()
    launcher = f"{shlex.quote(sys.executable)} -m torch.distributed.run --standalone --nproc-per-node 2"
    started = stage(tmp_path, launcher, PYTHONPATH=paths)
    printed, said = started.communicate()
    assert (started.returncode, printed) == (1, "")
    lines = [line for line in said.replace("\r", "\n").splitlines() if line and not line.startswith("fine-tuning:")]
    assert lines == ["error: process 1 of runtime.launcher was killed (SIGKILL); if its memory is enough, run the stage again"]
    assert none_left(tmp_path)
    assert any((tmp_path / "out/scratch").glob("*/checkpoint-*/curve.jsonl"))
    assert not (tmp_path / "out/tuned").exists()


@pytest.mark.parametrize(
    ("launcher", "line"),
    [
        ("no-such-launcher -n 2", "no-such-launcher: no such program; install it, or set null"),
        (f"{sys.executable} -c 'raise SystemExit(\"unknown flag\")'", f"{sys.executable} failed (unknown flag)"),
    ],
)
def test_a_launcher_that_fails_is_one_line(tmp_path: Path, launcher: str, line: str) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(SECTIONS))
    started = stage(tmp_path, launcher)
    _, said = started.communicate()
    assert (started.returncode, said) == (1, f"error: params.yaml: runtime.launcher: {line}\n")


def test_what_was_launched_ends_with_the_stage_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(SECTIONS))
    started = stage(tmp_path, f"{sys.executable} -c 'import time; time.sleep(60)'")
    while len(running(tmp_path)) < 2:
        time.sleep(0.02)
        assert started.poll() is None
    started.kill()
    started.communicate()
    assert none_left(tmp_path)
