"""Several processes at one stage: ``runtime.launcher`` starts them, they take turns at the stage's items, and the main one writes.

A stage that shares its work starts itself again through the launcher (torchrun, or what runs it: accelerate, srun). Which process
works on an item and how many there are shows in no out: results come back in the items' order, and whoever adds them up does so in
that order, since floating-point addition is not associative.
"""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from minigpts import params
from minigpts.errors import UserError, exit_cleanly, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")
R = TypeVar("R")

ERROR_FILE = "MINIGPTS_ERROR_FILE"  # of the environment: where the first process that fails says why; unset where none was launched
PR_SET_PDEATHSIG = 1  # of Linux's prctl.h
ROOT_CAUSE = re.compile(r"Root Cause.*?rank +: (\d+).*?exitcode +: -(\d+)", re.DOTALL)  # of torchrun's report: killed by a signal


def number() -> int:
    """This process's number among those of the launcher, from 0."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def count() -> int:
    """How many processes the launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1")) if ERROR_FILE in os.environ else 1


def is_main() -> bool:
    """Whether this is the process that writes the outs."""
    return number() == 0


def share(items: Iterable[T]) -> Iterator[T]:
    """Every ``count()``-th item, those that are this process's."""
    return islice(items, number(), None, count())


def in_order(items: Iterable[T], work: Callable[[T], R], *, main_only: bool = False) -> Iterator[R]:
    """What ``work`` gives for each item, in the items' order, each item being worked on by one process.

    Every process has to iterate to the end, and ``work`` to return what can be pickled, on the CPU. Memory holds as many results as
    there are processes. ``main_only`` gives the results to the main process alone, and nothing to the others.
    """
    if count() == 1:
        yield from map(work, items)
        return
    import torch.distributed as dist

    iterator = iter(items)
    while turn := list(islice(iterator, count())):
        own = work(turn[number()]) if number() < len(turn) else None
        results: list[R] = [None] * count()  # type: ignore[list-item]
        if main_only:
            dist.gather_object(own, results if is_main() else None)
        else:
            dist.all_gather_object(results, own)
        if is_main() or not main_only:
            yield from results[: len(turn)]


def added(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sum of every process's ``counts``, which are whole numbers: they add up the same in any order."""
    if count() > 1:
        import torch
        import torch.distributed as dist

        dist.all_reduce(torch.from_numpy(counts))  # in place
    return counts


def launch(main: Callable[[], None]) -> None:
    """Run a stage's ``main`` as :func:`minigpts.errors.exit_cleanly` does, in every process of ``runtime.launcher`` if it is set.

    The main process's words go to stderr, with its progress bars; the others say nothing. Whatever ends one of them ends all: with
    what the first to fail says, or one line that says which was killed.
    """
    if ERROR_FILE in os.environ:
        _run_rank(main)
    else:
        exit_cleanly(partial(_start, main))


def _start(main: Callable[[], None]) -> None:
    launcher = params.launcher(sys.argv[1:])
    if launcher is None:
        main()
        return
    stage = sys.modules["__main__"].__spec__.name  # type: ignore[union-attr]
    command = [*shlex.split(launcher), "-m", stage, *sys.argv[1:]]
    scratch = Path(".scratch").absolute()  # in the project's folder, which the processes of all nodes share
    scratch.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        said = Path(folder, "error")
        try:
            # stderr is the launcher's own, which reports at length; what the processes have to say comes by stdout.
            ran = subprocess.run(
                command,
                stdout=sys.stderr.fileno(),
                stderr=subprocess.PIPE,
                text=True,
                env={"TORCH_CPP_LOG_LEVEL": "ERROR", **os.environ, ERROR_FILE: str(said)},
                preexec_fn=partial(_end_with_parent, signal.SIGTERM),
                check=False,
            )
        except FileNotFoundError:
            raise UserError(f"params.yaml: runtime.launcher: {command[0]}: no such program; install it, or set null") from None
        if ran.returncode:
            sys.exit(said.read_text(encoding="utf-8") if said.exists() else _why(ran))


def _why(ran: subprocess.CompletedProcess[str]) -> str:
    """In one line, below the main process's unfinished bar, what ended a launcher whose processes said nothing themselves."""
    if killed := ROOT_CAUSE.search(ran.stderr):
        name = signal.Signals(int(killed[2])).name
        return f"\nerror: process {killed[1]} of runtime.launcher was killed ({name}); if its memory is enough, run the stage again"
    lines = ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"]
    return f"error: params.yaml: runtime.launcher: {shlex.join(ran.args[:1])} failed ({shown(lines[-1].strip())})"


def _run_rank(main: Callable[[], None]) -> None:
    """Run ``main`` in one of the launcher's processes; what goes wrong is left in the error file by the first it goes wrong in."""
    _end_with_parent(signal.SIGKILL)
    if not is_main():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    try:
        if count() > 1:
            import torch
            import torch.distributed as dist

            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            dist.init_process_group()
        exit_cleanly(main)
        if count() > 1:
            dist.barrier()  # none leaves while others still work
            dist.destroy_process_group()
    except SystemExit as stop:
        if isinstance(stop.code, str):
            _leave(stop.code)
        raise SystemExit(1 if stop.code else 0) from None
    except Exception as error:
        if not _of_another(error):
            _leave(traceback.format_exc().rstrip())
        raise SystemExit(1) from None


def _leave(words: str) -> None:
    with suppress(FileExistsError), Path(os.environ[ERROR_FILE]).open("x", encoding="utf-8") as file:
        file.write(words if is_main() else f"\n{words}")  # the main one's bars are ended


def _of_another(error: Exception) -> bool:
    """Whether an error only says that another process is gone."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or "gloo/transport" in str(error)


def _end_with_parent(sent: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent dies, however that dies: no launched process is left behind."""
    with suppress(OSError, AttributeError):  # another system than Linux
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(sent))
