"""Several clones of one project: what one of them ran, the others get. Real git, DVC and queue; the stages stand in."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.e2e.project import Project, contents, ran
from tests.e2e.stand_in import StandIn

MISSING = [name for name in ("dvc_s3", "moto", "boto3", "flask_cors") if importlib.util.find_spec(name) is None]
needs_s3 = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}; `pip install -e '.[dev]'` has them")
OTHER, THIRD = (f"finetune.learning_rate={rate}" for rate in (0.0001, 0.0002))
SECRETS = {"AWS_ACCESS_KEY_ID": "team", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    """A finished and committed run, and another in the cache."""
    project = StandIn(tmp_path_factory.mktemp("teams"))
    project.dvc("repro")
    project.commit("the run")
    assert ran(project.dvc("exp", "run", "-S", OTHER))
    project.other = contents(project.folder)
    project.restore()
    return project


@dataclass(frozen=True)
class Team:
    """A bare git repository, and a clone of it with the project's outs and cache."""

    hub: Project
    one: Project

    def clone(self, name: str) -> Project:
        """Another clone, with nothing but what git holds."""
        return self.hub.clone(self.hub.folder.with_name(name))


@pytest.fixture
def team(project, tmp_path) -> Team:
    project.git("clone", "--quiet", "--bare", ".", (tmp_path / "hub").as_posix())
    hub = project.clone(tmp_path / "unused")
    hub.folder = tmp_path / "hub"
    one = hub.clone(tmp_path / "one")
    shutil.copytree(project.folder / ".dvc/cache", one.folder / ".dvc/cache")
    one.dvc("checkout")
    return Team(hub, one)


@pytest.fixture
def bucket() -> Iterator[str]:
    """The address of an S3 server on loopback, which has a bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    session = boto3.Session(SECRETS["AWS_ACCESS_KEY_ID"], SECRETS["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1")
    session.client("s3", endpoint_url=endpoint).create_bucket(Bucket="team")
    yield endpoint
    server.stop()


def share(team: Team, there: dict[str, str]) -> None:
    """One clone pushes its run and an experiment; another gets both and runs nothing."""
    team.one.commit("the remote")
    team.one.git("push", "--quiet", "origin", "HEAD")
    team.one.dvc("push")
    team.one.dvc("exp", "run", "--name", "other", "-S", OTHER)
    team.one.dvc("exp", "push", "origin", "other")
    team.one.restore()

    two = team.clone("two")
    two.dvc("pull")
    assert contents(two.folder) == team.one.committed
    two.dvc("exp", "pull", "origin", "other")
    two.dvc("exp", "apply", "other")
    assert ran(two.dvc("repro")) == []
    assert contents(two.folder) == there


def test_a_folder_as_remote(team, project, tmp_path):
    store = tmp_path / "store"
    team.one.dvc("remote", "add", "--default", "store", store.as_posix())
    share(team, project.other)

    for path in filter(lambda path: path.is_file(), (store / "files").rglob("*")):
        path.unlink()
    three = team.clone("three")
    assert "Missing cache files" in three.dvc("pull", fails=True)
    team.one.dvc("push")
    three.dvc("pull")
    assert contents(three.folder) == team.one.committed


@needs_s3
def test_a_bucket_as_remote(team, project, bucket):
    team.one.env |= SECRETS
    team.hub.env |= SECRETS
    team.one.dvc("remote", "add", "--default", "store", "s3://team/store")
    team.one.dvc("remote", "modify", "store", "endpointurl", bucket)
    share(team, project.other)

    stranger = team.clone("stranger")
    stranger.env = {name: value for name, value in stranger.env.items() if name not in SECRETS}
    stranger.env |= {"HOME": str(stranger.folder), "AWS_EC2_METADATA_DISABLED": "true"}
    assert "Unable to locate credentials" in stranger.dvc("pull", fails=True)


def test_a_shared_cache_finds_what_another_clone_ran_in_the_workspace_and_in_the_queue(team, project):
    two = team.clone("two")
    two.dvc("cache", "dir", "--local", (team.one.folder / ".dvc/cache").as_posix())
    two.dvc("checkout")
    assert ran(two.dvc("exp", "run", "-S", OTHER)) == []
    assert contents(two.folder) == project.other
    two.git("checkout", "--", ".")
    two.dvc("exp", "run", "--queue", "--name", "queued", "-S", OTHER)
    assert ran(two.run_queue("queued")) == []


def test_two_clones_that_changed_dvc_lock_conflict_and_either_side_is_whole(team):
    one, two = team.one, team.clone("two")
    two.dvc("cache", "dir", "--local", (one.folder / ".dvc/cache").as_posix())
    for clone, settings in ((one, OTHER), (two, THIRD)):
        clone.dvc("exp", "run", "-S", settings)
        clone.commit(settings)
    one.git("push", "--quiet", "origin", "HEAD")

    with pytest.raises(subprocess.CalledProcessError):
        two.git("pull", "--quiet", "--no-rebase", "origin", "HEAD")
    assert {"dvc.lock", "params.yaml"} <= {*two.git("diff", "--name-only", "--diff-filter=U").split()}
    assert "possible merge conflicts" in two.dvc("repro", fails=True)
    two.git("checkout", "--theirs", ".")
    assert ran(two.dvc("repro")) == []
    two.commit("theirs")
    assert contents(two.folder) == one.committed
