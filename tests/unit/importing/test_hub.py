"""The real client against a hub on loopback; a process of its own shows that it takes hub, cache and token from its environment."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minigpts.errors import UserError
from minigpts.importing import hub as downloads
from minigpts.importing.paper_models import HubModel
from tests.hub_server import Hub, Repository, environment, in_this_process

MIB = 1 << 20
FAILED = "the download failed; check the network, and HF_ENDPOINT where it is set ("
DOWNLOAD = """
import sys
from minigpts.errors import exit_cleanly
from minigpts.importing import hub
from minigpts.importing.paper_models import HubModel
exit_cleanly(lambda: print(hub.download(HubModel(*sys.argv[1:]))))
"""


def write(folder: Path, **files: bytes | str | dict) -> Path:
    """A repository's files; ``__`` in a name stands for its dot."""
    folder.mkdir()
    for name, content in {"config__json": {"model_type": "llama"}, **files}.items():
        content = json.dumps(content) if isinstance(content, dict) else content
        (folder / name.replace("__", ".")).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


@pytest.fixture(scope="module")
def weights() -> bytes:
    """More than two of the client's chunks of 10 MiB; what is in them doesn't matter to a download."""
    return random.Random(0).randbytes(24 * MIB)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory, weights: bytes) -> dict[str, Repository]:
    root = tmp_path_factory.mktemp("repositories")
    extra = {
        "tokenizer__json": "{}",
        "README__md": "# A model",
        "modeling__py": "raise SystemExit",
        "pytorch_model__bin": b"pickle",
    }
    whole = write(root / "whole", model__safetensors=weights, **extra)
    shards = {"model-1__safetensors": b"a" * 100, "model-2__safetensors": b"b" * 100, "consolidated__safetensors": b"c" * 100}
    index = {"weight_map": {"x": "model-1.safetensors", "y": "model-2.safetensors"}}
    sharded = write(root / "sharded", **{"model__safetensors__index__json": index, **shards})
    pickled = write(root / "pickled", pytorch_model__bin=b"p" * 2000)
    mamba = write(root / "mamba", config__json={"model_type": "mamba"}, model__safetensors=b"w" * 2000)
    own_code = write(root / "own", config__json={"model_type": "x", "auto_map": {}}, model__safetensors=b"w" * 2000)
    return {
        "us/whole": Repository({"main": whole, "refs/pr/1": sharded}),
        "us/gated": Repository({"main": whole}, gated=True),
        "us/pickled": Repository({"main": pickled, "refs/pr/3": sharded}, pull_requests={2: "somebody", 3: "SFconvertbot"}),
        "us/unconverted": Repository({"main": pickled}, pull_requests={2: "somebody"}),
        "us/unsupported": Repository({"main": mamba}),
        "us/own-code": Repository({"main": own_code}),
        "us/empty": Repository({"main": write(root / "empty")}),
    }


@pytest.fixture
def hub(repositories: dict[str, Repository]) -> Iterator[Hub]:
    with Hub(repositories) as hub:
        yield hub


class Client:
    """Runs downloads with one cache, without waiting between the client's attempts."""

    def __init__(self, url: str, cache: Path) -> None:
        self.url, self.cache = url, cache

    def download(self, repo_id: str, revision: str = "main", or_conversion: bool = False, **env: str) -> Path:
        """The folder; ``env`` is what the environment says of the client."""
        with pytest.MonkeyPatch.context() as patch:
            in_this_process(patch, self.url, self.cache, **env)
            patch.setattr(time, "sleep", lambda seconds: None)
            return downloads.download(HubModel(repo_id, revision, or_conversion))

    def refused(self, *arguments: str, **options: Any) -> str:
        """The one line of the refusal."""
        with pytest.raises(UserError) as caught:
            self.download(*arguments, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    return Client(hub.url, tmp_path / "cache")


def test_what_is_needed_is_downloaded_and_no_code_and_no_pickle(hub, client, weights):
    folder = client.download("us/whole")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (folder / "model.safetensors").read_bytes() == weights
    assert folder.is_relative_to(client.cache)
    assert not [request for request in hub.requests if request.path.endswith((".bin", ".py", ".md"))]


def test_the_second_fetch_downloads_nothing_and_a_pinned_one_asks_nothing(hub, client):
    folder = client.download("us/whole")
    hub.requests.clear()
    assert client.download("us/whole") == folder
    assert hub.file_bytes() == 0
    assert len(hub.requests) == 1  # which commit the branch is at
    assert client.download("us/whole", folder.name) == folder
    assert len(hub.requests) == 1


def test_a_branch_is_resolved_and_its_commit_said(hub, client, capsys):
    commit = hub.repositories["us/whole"].commit("main")
    client.download("us/whole")
    assert capsys.readouterr().out.startswith(f"us/whole@main is commit {commit} today; set model.revision to it")
    assert client.download("us/whole", commit) == client.cache / f"hub/models--us--whole/snapshots/{commit}"
    assert capsys.readouterr().out == ""


def test_the_shards_of_the_index_are_downloaded_and_nothing_beside_them(client):
    folder = client.download("us/whole", "refs/pr/1")
    assert {path.name for path in folder.glob("*.safetensors")} == {"model-1.safetensors", "model-2.safetensors"}


def test_a_cut_download_goes_on_where_it_was_cut(hub, client, weights):
    hub.cut_after, hub.cuts = 15 * MIB, 1
    folder = client.download("us/whole")
    assert (folder / "model.safetensors").read_bytes() == weights
    parts = [request for request in hub.requests if request.method == "GET" and request.path.endswith("/model.safetensors")]
    assert [part.range is None for part in parts] == [True, False]
    start = int(parts[1].range.removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= 15 * MIB  # the client writes in chunks, of 10 MiB at present
    assert parts[1].file_bytes == len(weights) - start


def test_a_connection_that_stays_broken_is_one_line_and_what_came_whole_is_kept(hub, client):
    hub.cut_after, hub.cuts = 1000, 100
    line = client.refused("us/whole")
    assert line.startswith("us/whole@main: the connection broke (")
    hub.cuts = 0
    hub.requests.clear()
    client.download("us/whole")
    assert [request.path.rsplit("/", 1)[1] for request in hub.requests if request.file_bytes] == ["model.safetensors"]


def test_the_token_of_the_environment_opens_a_gated_repository(hub, client):
    line = client.refused("us/gated")
    terms = f"accept its terms at {hub.url}/us/gated and set HF_TOKEN to a token of that account"
    assert line == f"us/gated@main: the repository is gated; {terms}"
    assert client.refused("us/gated", HF_TOKEN="hf_of_somebody_else") == line
    hub.requests.clear()
    assert (client.download("us/gated", HF_TOKEN=hub.token) / "model.safetensors").exists()
    assert {request.authorization for request in hub.requests} == {f"Bearer {hub.token}"}


def test_a_process_takes_hub_cache_and_token_from_its_environment(hub, tmp_path):
    def download(**env: str) -> tuple[str, str]:
        command = [sys.executable, "-c", DOWNLOAD, "us/gated", "main"]
        told = environment(hub.url, tmp_path / "cache", **env)
        done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=60, check=False)
        return (done.stdout.splitlines() or [""])[-1], done.stderr

    folder, error = download(HF_TOKEN=hub.token)
    assert Path(folder).is_relative_to(tmp_path / "cache"), error
    assert {request.authorization for request in hub.requests} == {f"Bearer {hub.token}"}
    hub.requests.clear()
    assert download(HF_HUB_OFFLINE="1")[0] == folder
    assert not hub.requests
    assert download(HF_ENDPOINT="http://[no-address")[1].splitlines()[-1].startswith(f"error: us/gated@main: {FAILED}")


@pytest.mark.parametrize(
    ("repo_id", "revision", "message"),
    [
        ("us/nowhere", "main", "us/nowhere@main: no such repository at HUB; check model.repo_id, or set HF_TOKEN if it is private"),
        ("us/whole", "v2", "us/whole@v2: the repository has no such revision; check model.revision at HUB/us/whole/commits"),
        (
            "us/whole",
            "0" * 40,
            f"us/whole@{'0' * 40}: the repository has no such revision; check model.revision at HUB/us/whole/commits",
        ),
        (
            "us/pickled",
            "main",
            "us/pickled@main: its weights are pickled, and unpickling can run any code;"
            " set model.revision: refs/pr/3, the hub's own conversion to safetensors",
        ),
        (
            "us/unconverted",
            "main",
            "us/unconverted@main: its weights are pickled, and unpickling can run any code;"
            " set model.revision to one with safetensors, such as a pull request's (refs/pr/N)",
        ),
        (
            "us/empty",
            "main",
            "us/empty@main: has neither model.safetensors nor model.safetensors.index.json;"
            " name a repository with a language model's weights",
        ),
        (
            "us/own-code",
            "main",
            "us/own-code@main/config.json: the model needs code of its own (auto_map), which is never run; see docs/",
        ),
        ("us/unsupported", "main", "us/unsupported@main/config.json: model_type 'mamba' is not supported; supported: arcee, "),
    ],
)
def test_what_cannot_be_had_is_one_line(hub, client, weights, repo_id, revision, message):
    assert client.refused(repo_id, revision).replace(hub.url, "HUB").startswith(message)
    assert hub.file_bytes() < 1000  # refused by the small files


def test_the_conversion_that_the_refusal_names_can_be_had_and_a_preset_takes_it(client, capsys):
    folder = client.download("us/pickled", "refs/pr/3")
    assert (folder / "model-1.safetensors").exists()
    assert client.download("us/pickled", or_conversion=True) == folder
    said = "us/pickled@main has pickled weights alone; taking refs/pr/3, the hub's own conversion to safetensors\n"
    assert said in capsys.readouterr().out
    assert client.refused("us/unconverted", or_conversion=True).startswith("us/unconverted@main: its weights")


def test_offline_is_fine_with_a_whole_copy_and_one_line_without(hub, client):
    line = "us/whole@main: HF_HUB_OFFLINE is set, and the cache hasn't got all of it; unset it to download"
    assert client.refused("us/whole", HF_HUB_OFFLINE="1") == line
    folder = client.download("us/whole")
    hub.requests.clear()
    for revision in ("main", folder.name):
        assert client.download("us/whole", revision, HF_HUB_OFFLINE="1") == folder
    (folder / "model.safetensors").unlink()
    assert client.refused("us/whole", HF_HUB_OFFLINE="1") == line
    assert not hub.requests


def test_a_hub_that_is_away_is_fine_with_a_whole_copy_and_one_line_without(hub, client):
    folder = client.download("us/whole")
    client.url = "http://127.0.0.1:9"  # the discard port: nothing listens
    assert client.download("us/whole", folder.name) == folder
    assert client.refused("us/gated") == "us/gated@main: can't reach http://127.0.0.1:9; check the network, or HF_ENDPOINT"


def test_a_hub_that_is_ill_is_one_line(hub, client):
    hub.error = 503
    line = client.refused("us/whole")
    assert line == f"us/whole@main: {hub.url} answers 503 Service Unavailable; try again later"


def test_what_is_no_hub_is_one_line(hub, client):
    hub.portal = True
    assert client.refused("us/whole").startswith(f"us/whole@main: {FAILED}")
