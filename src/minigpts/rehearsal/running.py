"""Runs the stages' scripts in this process: to import torch for each of them would take longer than its work."""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from minigpts.errors import UserError


def commands(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each stage's name and its module with flags, in DVC's order, as DVC resolves the ``dvc.yaml`` and params of ``folder``."""
    from dvc.repo import Repo
    from dvc.repo.reproduce import plan_repro

    with Repo(str(folder), uninitialized=True) as repo:
        for stage in plan_repro(repo.index.graph):
            python, dash_m, *command = shlex.split(stage.cmd)
            assert (python, dash_m) == ("python", "-m"), stage.cmd
            yield stage.addressing, command


def run(stage: str, script: Callable[[], None], *, show_errors: bool = False) -> None:
    """Run a stage's ``script`` without what it prints, unless it fails in a way it has no words for.

    ``show_errors`` lets through what it writes to stderr. Raises UserError, naming the stage, for what the script refuses.
    """
    printed = io.StringIO()
    errors = sys.stderr if show_errors else printed
    try:
        with of_stage(stage), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
            script()
    except UserError:
        raise
    except Exception:
        sys.stderr.write(printed.getvalue())
        raise


@contextlib.contextmanager
def of_stage(stage: str) -> Iterator[None]:
    """Let a UserError say which stage of the run would have raised it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{stage}: {error}") from None
