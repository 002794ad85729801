"""One tiny project for the whole session, run once: every stage costs seconds of imports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.e2e.project import Project


@dataclass(frozen=True)
class FirstRun:
    """What happened in the project's first two ``dvc repro``: one killed in finetune, and one after it."""

    project: Project
    killed_after_step: int  # of the newest whole checkpoint
    killed: str  # what was printed until then
    resumed: str


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> FirstRun:
    """The project with a finished and committed run."""
    folder = tmp_path_factory.mktemp("e2e")
    project = Project(folder)
    step = project.repro_killed_in_finetune(folder / "killed.txt")
    resumed = project.dvc("repro")
    project.commit("the run")
    return FirstRun(project, step, (folder / "killed.txt").read_text(), resumed)


@pytest.fixture
def project(first_run: FirstRun) -> Iterator[Project]:
    """The finished project, brought back to its commit afterwards."""
    yield first_run.project
    first_run.project.restore()
