"""A stage that is killed or refused at any write, or reads a damaged file, is run again and gives the same bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from minigpts import artifacts

ROOT = Path(__file__).parents[3]


def test_a_dozen_faults_of_the_first_stages_lose_nothing(tmp_path):
    """In a process of its own: it forks."""
    command = [sys.executable, "-m", "benchmarks.trust.faults", "--last", "prepare_dataset", "--most", "12", "--seed", "1"]
    done = subprocess.run([*command, "--out", str(tmp_path / "faults.csv")], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = artifacts.read_csv(tmp_path / "faults.csv")
    assert len(rows) == 12
    assert {"killed, then equal", "refused, then equal"} & {row["outcome"] for row in rows}
