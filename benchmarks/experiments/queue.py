"""DVC experiments by name: queue them, work the queue off, and take figures and files from those that came to their end.

Queued experiments see only files that git tracks; what one of them has made, the next takes from the run cache. Whatever else
is queued runs, too.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minigpts.errors import UserError

RUNNING = ("queued", "running")
POLL_SECONDS = 10  # a look costs 2.5 s of a core, which the experiments need
ROUNDS_WITHOUT_WORKER = 12  # looks at a queue in which something waits and nothing works, before it is given up


def dvc(*arguments: str) -> str:
    """Run DVC in the current folder; gives what it printed. Raises UserError with its last line when it fails."""
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        errors = [line for line in done.stdout.splitlines() if line.startswith("ERROR: ")] or done.stdout.splitlines()[-1:]
        raise UserError(f"dvc {' '.join(arguments[:3])}: {errors[0].removeprefix('ERROR: ') if errors else 'no message'}")
    return done.stdout


def git(*arguments: str) -> str:
    """What git prints; empty when it fails."""
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout


def commit_of(name: str) -> str:
    """The commit of a finished experiment; empty while there is none."""
    return git("for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{name}").strip()


def named(*parts: str) -> str:
    """A name that git takes, of the parts."""
    return "-".join(re.sub(r"[^A-Za-z0-9]+", "_", part) for part in parts)


def queue(wanted: Mapping[str, Sequence[str]]) -> None:
    """Queue experiments, by name their params as ``-S`` takes them, in the place of earlier ones of the same names.

    Raises UserError when one of them runs, or counts as running since the machine stopped amid it.
    """
    statuses = status()
    for name in wanted:
        if statuses.get(name) == "running":
            raise UserError(f"{name} is running, or was when the machine stopped; first `dvc queue kill {name}`, or wait for it")
    for name, settings in wanted.items():
        if commit_of(name):
            dvc("exp", "remove", name)  # a finished one leaves the queue's list with it
        if name in statuses and name in status():
            dvc("queue", "remove", name)
        dvc("exp", "run", "--queue", "--name", name, *(word for value in settings for word in ("-S", value)))


def status() -> dict[str, str]:
    """Name and state of all that is in DVC's queue or came out of it: queued, running, success, failed."""
    shown = json.loads(dvc("exp", "show", "--json", "--only-changed"))
    found = [experiment for row in shown for experiment in row["experiments"] or [] if experiment["executor"]]
    return {experiment["name"]: experiment["executor"]["state"] for experiment in found}


def work_off(names: Sequence[str], hours: float, unit: str) -> None:
    """Start the queue and wait until nothing of ``names`` waits or runs. Raises UserError when that takes too long."""
    dvc("queue", "start", "-j", "1")
    deadline, idle = time.monotonic() + 3600 * hours, 0
    with tqdm(total=len(names), desc="experiments", unit=unit) as bar:
        while waiting := unfinished(names, states := status()):
            bar.update(len(names) - len(waiting) - bar.n)
            idle = 0 if "running" in states.values() else idle + 1
            if time.monotonic() > deadline or idle > ROUNDS_WITHOUT_WORKER:
                raise UserError(
                    f"{len(waiting)} experiments are not done; see `dvc queue status` and `dvc queue logs {waiting[0]}`"
                )
            time.sleep(POLL_SECONDS)
        bar.update(len(names) - bar.n)


def unfinished(names: Sequence[str], states: Mapping[str, str]) -> list[str]:
    """Those of ``names`` that wait or run."""
    return [name for name in names if states.get(name) in RUNNING]


def finished(names: Mapping[str, str]) -> list[str]:
    """Those of ``names`` that came to their end; a line on stderr for each other: what it is called, what its stage said last.

    Raises UserError when there is none.
    """
    failed = {name: called for name, called in names.items() if not commit_of(name)}
    queued = status() if failed else {}
    for name, called in failed.items():
        log = dvc("queue", "logs", name).splitlines() if name in queued else []
        errors = [line for line in log if line.lower().startswith("error: ")]
        print(f"{called} failed: {errors[0] if errors else 'no message'} (dvc queue logs {name})", file=sys.stderr)
    if len(failed) == len(names):
        raise UserError("no experiment came to its end")
    return [name for name in names if name not in failed]


def metrics(name: str, stems: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What a finished experiment's ``metrics/<stem>.json`` hold."""
    commit = commit_of(name)
    return {stem: json.loads(git("show", f"{commit}:metrics/{stem}.json")) for stem in stems}


def fetch(name: str, path: str, out: Path) -> None:
    """Put an output of a finished experiment, a file or a folder, at ``out``. Raises UserError where the cache lacks it."""
    dvc("get", ".", path, "--rev", commit_of(name), "--out", str(out))
