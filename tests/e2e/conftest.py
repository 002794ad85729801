"""One tiny project for the whole session, run once: every stage costs seconds of imports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.e2e.project import OTHER_THRESHOLD, TINY, Project, contents


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


@dataclass(frozen=True)
class ThereAndBack:
    """What an experiment with another threshold printed and left, and then one with the first threshold."""

    there: str
    there_contents: dict[str, str]
    back: str
    back_contents: dict[str, str]


@pytest.fixture(scope="session")
def other_threshold(first_run: FirstRun) -> ThereAndBack:
    """Another threshold's experiment, and the way back."""
    project = first_run.project

    def run(threshold: object) -> tuple[str, dict[str, str]]:
        return project.dvc("exp", "run", "-S", f"threshold={threshold}"), contents(project.folder)

    there, back = run(OTHER_THRESHOLD), run(TINY["threshold"])
    project.restore()
    return ThereAndBack(*there, *back)


@pytest.fixture
def project(first_run: FirstRun) -> Iterator[Project]:
    """The finished project, brought back to its commit afterwards."""
    yield first_run.project
    first_run.project.restore()
