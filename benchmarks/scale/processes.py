"""Time and peak memory of a process, and of the same process with nothing but its imports."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SAMPLING_SECONDS = 0.02

# Runs a stage, and notes at the end which modules it had loaded.
RECORDED = """
import atexit, json, runpy, sys
path, stage = sys.argv.pop(1), sys.argv[1]
del sys.argv[0]
def note():
    with open(path, "w") as file:
        json.dump(list(sys.modules), file)
atexit.register(note)
runpy.run_module(stage, run_name="__main__", alter_sys=True)
"""
IMPORTS_ALONE = """
import contextlib, importlib, json, sys
with open(sys.argv[1]) as file:
    names = json.load(file)
for name in names:
    with contextlib.suppress(Exception):  # not every entry of sys.modules is a name that can be imported
        importlib.import_module(name)
"""


@dataclass(frozen=True)
class Usage:
    """What a process took. Bytes and seconds."""

    seconds: float
    cpu_seconds: float  # of all its threads, so that other work on the machine shows less
    peak_rss: int  # the kernel's high-water mark: pages of mapped files count too
    peak_anonymous: int  # the highest sample of what no file backs


def watch(command: Sequence[str | Path]) -> Usage:
    """Run a command to its end. Exits with the end of its error output when it fails."""
    with tempfile.TemporaryFile() as errors:
        start, before = time.perf_counter(), _children()
        process = subprocess.Popen([*map(str, command)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)
        peaks: Counter[str] = Counter()
        while process.poll() is None:
            peaks |= _memory(process.pid)
            with suppress(subprocess.TimeoutExpired):
                process.wait(SAMPLING_SECONDS)
        seconds = time.perf_counter() - start
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{' '.join(map(str, command[-12:]))}\n{errors.read().decode(errors='replace')[-4000:]}")
    return Usage(seconds, _children() - before, peaks["VmHWM"], peaks["RssAnon"])


def _children() -> float:
    """CPU seconds of the processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _memory(pid: int) -> Counter[str]:
    """Bytes by the names of /proc/PID/status; nothing once the process has ended."""
    with suppress(OSError):
        lines = [line.split() for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()]
        return Counter({line[0][:-1]: int(line[1]) * 1024 for line in lines if line[0] in ("VmHWM:", "RssAnon:")})
    return Counter()


def run_module(module: str, arguments: Sequence[str | Path], modules: Path, runner: str = RECORDED) -> Usage:
    """Run ``python -m module`` to its end, and note in the file ``modules`` what it had imported by then."""
    return watch([sys.executable, "-c", runner, modules, module, *arguments])


def imports_of(modules: Path) -> Usage:
    """The imports that :func:`run_module` noted, alone."""
    return watch([sys.executable, "-c", IMPORTS_ALONE, modules])
