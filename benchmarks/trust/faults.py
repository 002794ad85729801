"""Disturb every stage of a tiny pipeline, run it again, and compare: every out must be the undisturbed run's, to the byte.

A stage is killed (SIGKILL, SIGTERM to it or to its group, SIGINT) or refused (a full disk, a missing permission) at each file that
it opens for writing, renames or removes. It is killed at drawn moments. Its files can't grow beyond some size. What it reads is cut
short, emptied or scribbled over. Then no process of its goes on, an out is there whole or not at all, what can be said is said in
one line, and run again, the stage ends well. Stages run in forks of one process that has imported everything once. DVC's part is
played: it removes a stage's outs before it runs it. ``python -m benchmarks.trust.faults --minutes 10``, on Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import hashlib
import importlib
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.table import markdown
from minigpts import artifacts
from minigpts.errors import exit_cleanly
from tests.e2e.project import ROOT, STAGES, TINY, flags, write_inputs, write_params

RESULTS = Path(__file__).parents[1] / "results/faults.csv"
PARAMS = {
    **TINY,
    "finetune.learning_rate": 3e-3,
    "finetune.max_tokens": 6 * 64,
    "finetune.evaluations": 2,
    "export.scale_tokens": 128,
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
SECONDS = 120  # before a run is given up
KILLS = {
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "SIGTERM to the group": lambda: os.killpg(os.getpgrp(), signal.SIGTERM),
    "SIGINT": lambda: os.kill(os.getpid(), signal.SIGINT),
}
ERRORS = {"disk full": errno.ENOSPC, "no permission": errno.EACCES}
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "scribbled over": lambda content: bytes(64) + content[64:],
}
Hashes = Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """One stage of the pipeline, or one item of its matrix."""

    stage: str
    item: str = ""

    @property
    def name(self) -> str:
        """As DVC writes it."""
        return f"{self.stage}@{self.item}" if self.item else self.stage

    def paths(self, *kinds: str) -> list[str]:
        """The stage's paths of these kinds in dvc.yaml."""
        entries = [entry for kind in kinds for entry in STAGES[self.stage].get(kind, ())]
        named = [path for entry in entries for path in ([entry] if isinstance(entry, str) else entry)]
        return [path.replace("${item.checkpoint}", self.item).replace("${finetune.teacher}", "base") for path in named]

    @property
    def outs(self) -> list[str]:
        """What it writes."""
        return self.paths("outs", "metrics", "plots")

    @property
    def inputs(self) -> list[str]:
        """What it reads, but for code."""
        return [path for path in self.paths("deps") if not path.startswith(("src/", "stages/"))]


def pipeline() -> list[Run]:
    """Every stage, in an order that works."""
    order = [*("fetch_model", "prepare_dataset", "write_general", "profile_activations", "count_tokens", "check_budget")]
    order += ["measure_damage", "plan_budget", "prune_neurons", "prune_embeddings", "evaluate@base", "evaluate@pruned", "finetune"]
    order += ["tune_parent", "evaluate@finetuned", "evaluate@tuned_parent", "export", "evaluate_exported", "report"]
    assert {*order} == {*STAGES, *(f"evaluate@{item}" for item in STAGES["evaluate"]["matrix"]["checkpoint"])} - {"evaluate"}
    return [Run(*name.split("@")) for name in order]


@dataclass(frozen=True)
class Fault:
    """What is done to a run, and where."""

    kind: str
    where: str
    inflict: Callable[[], None]  # in the fork, before the stage begins
    before: Callable[[Path], Callable[[], None]] | None = None  # in the project's folder; what puts things right again


class Pipeline:
    """A tiny project in a folder, each stage's outs being those of an undisturbed run."""

    def __init__(self, folder: Path, runs: Sequence[Run]) -> None:
        """Make it, and run every one of ``runs`` once."""
        self.folder, self.runs, self.said, self.group = folder, runs, "", 0
        self.seconds: dict[str, float] = {}
        self.places: dict[str, list[str]] = {}  # by run: what each of its writes, renames and removals is
        if self._fork(lambda: _make(folder)) != 0:
            raise RuntimeError("the tiny project can't be made")
        for run in runs:
            self._prepared(run)
            start, log = time.monotonic(), folder / ".events"
            code = self._fork(partial(_stage, run, folder, partial(_note_events, log)))
            if code != 0:
                raise RuntimeError(f"{run.name} fails undisturbed: {self.said}")
            self.seconds[run.name] = time.monotonic() - start
            self.places[run.name] = log.read_text().splitlines() if log.exists() else []
        self.expected = contents(folder)

    def _prepared(self, run: Run) -> None:
        for name in run.outs:
            artifacts.discard(self.folder / name)
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)

    def _fork(self, work: Callable[[], None]) -> int:
        """Do the work in a process group of its own, and give its exit code, or minus its signal; ``said`` is what it prints."""
        mouth, ear = os.pipe()[::-1]  # no file: those may be limited
        fcntl.fcntl(mouth, fcntl.F_SETPIPE_SZ, 1 << 20)
        os.set_blocking(ear, False)
        process = os.fork()
        if process == 0:
            _alone(self.folder, work, mouth)
        os.close(mouth)
        deadline = time.monotonic() + SECONDS
        while (ended := os.waitpid(process, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.killpg(process, signal.SIGKILL)
            time.sleep(0.002)
        with contextlib.suppress(BlockingIOError):
            self.said = os.read(ear, 1 << 20).decode(errors="replace").strip().replace(f"{ROOT}/", "")
        os.close(ear)
        self.group = process
        return os.waitstatus_to_exitcode(ended[1])

    def disturb(self, run: Run, fault: Fault) -> str:
        """What came of a fault: "ended, then equal", or the first thing that is wrong."""
        self._prepared(run)
        undo = fault.before(self.folder) if fault.before else lambda: None
        code = self._fork(partial(_stage, run, self.folder, fault.inflict))
        said = self.said
        undo()
        wrong = self._orphans() or self._told(code, said) or self._half(run)
        self._prepared(run)
        again = self._fork(partial(_stage, run, self.folder, lambda: None))
        if again != 0:
            return wrong or f"WRONG: run again, it ends with {again}: {self.said[-300:]}"
        found = contents(self.folder)
        differing = sorted({name for name in {*found, *self.expected} if found.get(name) != self.expected.get(name)})
        wrong = wrong or (f"WRONG: differs afterwards: {', '.join(differing[:4])}" if differing else "")
        how = "unharmed" if code == 0 else "refused" if code == 1 else "killed"
        return wrong or f"{how}, then equal"

    def _orphans(self) -> str:
        try:
            os.killpg(self.group, signal.SIGKILL)
        except ProcessLookupError:
            return ""
        return "WRONG: a process goes on"

    def _told(self, code: int, said: str) -> str:
        lines = [line for line in said.splitlines() if line.startswith(("error: ", "Traceback"))]
        if code == 1 and len(lines) == 1 and lines[0].startswith("error: "):
            return ""
        ended = code == 0 or -code in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
        return "" if ended else f"WRONG: ends with {code}: {said[-300:]}"

    def _half(self, run: Run) -> str:
        """An out of the run that is there, but isn't what it should be; or another stage's that isn't."""
        found = contents(self.folder)
        for name, expected in self.expected.items():
            is_own = any(Path(name).is_relative_to(out) for out in run.outs)
            out = next((out for out in run.outs if Path(name).is_relative_to(out)), name)
            if found.get(name, None if is_own and not (self.folder / out).exists() else "missing") not in (None, expected):
                return f"WRONG: half written: {name}"
        return ""


def contents(folder: Path) -> dict[str, str]:
    """A hash of every file that the stages left in data and metrics, hidden ones too."""
    files = [path for top in ("data", "metrics", ".scratch") for path in sorted((folder / top).rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _make(folder: Path) -> None:
    write_inputs(folder)
    write_params(folder / "params.yaml", PARAMS)


def _alone(folder: Path, work: Callable[[], None], mouth: int) -> None:
    """Work as a stage's process would: its signals and its exit code, what it says into ``mouth``."""
    code = 3
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(mouth, 1)
        os.dup2(mouth, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        work()
        code = 0
    except SystemExit as stop:
        print(stop.code, file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = -signal.SIGINT
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        if code == -signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        os._exit(code)


def _stage(run: Run, folder: Path, inflict: Callable[[], None]) -> None:
    main = importlib.import_module(f"stages.{run.stage}").main
    inflict()
    exit_cleanly(lambda: main(flags(run.stage, run.item)))


# What is inflicted


def _watch(hit: Callable[[int, str], None]) -> None:
    """Call ``hit`` before each file that Python opens for writing, renames or removes in the project, with its number from 1."""
    count, here = 0, str(Path.cwd())

    def hook(event: str, given: tuple[object, ...]) -> None:
        nonlocal count
        opened = event == "open" and isinstance(given[2], int) and given[2] & WRITING
        if not (opened or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir")) or not isinstance(
            given[0], str | os.PathLike
        ):
            return
        path = os.path.normpath(os.path.join(here, given[0]))  # noqa: PTH118
        if path.startswith(f"{here}/") and not path.endswith((".pyc", ".events")) and "__pycache__" not in path:
            count += 1
            hit(count, f"{event.removeprefix('os.')} {path.removeprefix(f'{here}/')}")

    sys.addaudithook(hook)


def _note_events(log: Path) -> None:
    log.unlink(missing_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT)

    def note(number: int, what: str) -> None:
        os.write(file, f"{what}\n".encode())

    _watch(note)


def _at(number: int, act: Callable[[], None]) -> None:
    _watch(lambda count, what: act() if count == number else None)


def _fail(code: int) -> None:
    raise OSError(code, os.strerror(code), "a file")


def _after(seconds: float, number: int) -> None:
    """Let a process beside deliver the signal to this one after so many seconds of the clock."""
    target = os.getpid()
    if os.fork() == 0:
        os.setsid()
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(target, number)
        os._exit(0)


def _limit(num_bytes: int) -> None:
    """A file can't grow beyond so many bytes: what a full disk is to a library that writes for itself."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def _damaged(name: str, damage: Callable[[bytes], bytes], folder: Path) -> Callable[[], None]:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(damage(content))

    def undo() -> None:
        (folder / name).write_bytes(content)

    return undo


def faults(pipeline: Pipeline, run: Run) -> Iterator[Fault]:
    """All that may happen to a run."""
    for number, place in enumerate(pipeline.places[run.name], start=1):
        for kind, kill in KILLS.items():
            yield Fault(kind, place, partial(_at, number, kill))
        for kind, code in ERRORS.items():
            yield Fault(kind, place, partial(_at, number, partial(_fail, code)))
    for percent in range(5, 100, 10):
        for kind in ("SIGKILL", "SIGTERM"):
            seconds = pipeline.seconds[run.name] * percent / 100
            yield Fault(kind, f"after {percent} % of its time", partial(_after, seconds, getattr(signal, kind)))
    sizes = {
        (pipeline.folder / name).stat().st_size
        for name in pipeline.expected
        if any(Path(name).is_relative_to(out) for out in run.outs)
    }
    for size in sorted({size // 2 for size in sizes} | {0, max(sizes) - 1}):
        yield Fault("disk full", f"behind byte {size} of a file", partial(_limit, size))
    files = [name for name in pipeline.expected if any(Path(name).is_relative_to(path) for path in run.inputs)]
    for name in (name for name in files if not name.endswith((".jinja", ".md", ".html", "skipped.json"))):
        for kind, damage in DAMAGES.items():
            if kind == "empty" and name.endswith(".jsonl"):
                continue  # no question at all is as many as a user may have
            yield Fault(f"input {kind}", name, lambda: None, partial(_damaged, name, damage))


def sweep(pipeline: Pipeline, seconds: float, most: int | None, seed: int) -> list[dict[str, str]]:
    """Faults in a drawn order, so many or for so long, each as a row: kind, stage, where, outcome."""
    drawn = [(run, fault) for run in pipeline.runs for fault in faults(pipeline, run)]
    random.Random(seed).shuffle(drawn)
    rows, start = [], time.monotonic()
    for run, fault in drawn[:most]:
        if time.monotonic() - start > seconds:
            break
        rows.append({"kind": fault.kind, "stage": run.name, "where": fault.where, "outcome": pipeline.disturb(run, fault)})
        if "WRONG" in rows[-1]["outcome"]:
            print(rows[-1], flush=True)
    print(f"{len(rows)} of {len(drawn)} faults in {time.monotonic() - start:.0f} s", flush=True)
    return rows


def import_stages(runs: Sequence[Run]) -> None:
    """Import what they import, so that forks needn't. Nothing is computed, and so no thread started, before those."""
    import torch

    torch.set_num_threads(1)
    for stage in {run.stage for run in runs}:
        importlib.import_module(f"stages.{stage}")
    importlib.import_module("minigpts.importing.local_folder")
    importlib.import_module("minigpts.corpus.prepare")


def main(argv: Sequence[str] | None = None) -> None:
    """Keep the table, print it by kind, and exit with 1 where something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10, help="at most, from the first fault on")
    parser.add_argument("--most", type=int, help="faults")
    parser.add_argument("--last", default="report", help="stage to stop behind")
    parser.add_argument("--seed", type=int, default=0, help="of the faults' order")
    parser.add_argument("--out", type=Path, default=RESULTS, help="CSV file of one row a fault")
    arguments = parser.parse_args(argv)
    runs = pipeline()
    runs = runs[: [run.name for run in runs].index(arguments.last) + 1]
    import_stages(runs)
    with tempfile.TemporaryDirectory() as scratch:
        rows = sweep(Pipeline(Path(scratch), runs), 60 * arguments.minutes, arguments.most, arguments.seed)
    artifacts.write_csv(arguments.out, sorted(rows, key=lambda row: (row["stage"], row["kind"], row["where"])))
    outcomes = sorted({row["outcome"].partition(":")[0] for row in rows})
    counts = Counter((row["kind"], row["outcome"].partition(":")[0]) for row in rows)
    kinds = sorted({row["kind"] for row in rows})
    print(markdown(["kind", *outcomes], [[kind, *(str(counts[kind, outcome]) for outcome in outcomes)] for kind in kinds]))
    sys.exit(1 if any("WRONG" in row["outcome"] for row in rows) else 0)


if __name__ == "__main__":
    main()
