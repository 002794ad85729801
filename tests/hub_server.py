"""A small hub on 127.0.0.1: serves folders as repositories to the real client, and can be told to fail as the real one does.

Only what a download asks for is here: a revision's commit, its list of files, the files with ranges, open pull requests,
and whether a token opens a data set. Repositories have no folders.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from dataclasses import dataclass, field
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

SOCKET_SECONDS = 20  # a connection that stays silent is closed
REPOSITORY = r"((?:datasets/)?[^/]+/[^/]+)"


@dataclass
class Repository:
    """What a repository holds, revision by revision, and who may have it."""

    revisions: dict[str, Path]  # "main" or "refs/pr/1" to the folder with its files
    gated: bool = False  # its files need the token
    pull_requests: dict[int, str] = field(default_factory=dict)  # number to author; all of them open

    def commit(self, revision: str) -> str | None:
        """The commit of a revision (or of itself): a hash of names and contents; None when there is no such revision."""
        commits = {name: _commit(folder) for name, folder in self.revisions.items()}
        return commits.get(revision, revision if revision in commits.values() else None)

    def folder(self, revision: str) -> Path:
        """The files of a revision that exists."""
        return next(folder for name, folder in self.revisions.items() if revision in (name, _commit(folder)))


def _commit(folder: Path) -> str:
    digest = hashlib.sha1()
    for path in sorted(folder.iterdir()):
        digest.update(f"{path.name} {_digest(path, 'sha1')} ".encode())
    return digest.hexdigest()


def _digest(path: Path, kind: str) -> str:
    stat = path.stat()
    return _digest_of_state(path, kind, stat.st_size, stat.st_mtime_ns)


@cache
def _digest_of_state(path: Path, kind: str, size: int, changed: int) -> str:
    """Hashed once as it stands: one download asks for it a dozen times."""
    return hashlib.new(kind, path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Request:
    """What the server saw of one request, and how much of a file it sent in return."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    file_bytes: int = 0


class Hub:
    """The server, for a ``with`` block. Its switches may be changed while it runs."""

    def __init__(self, repositories: dict[str, Repository], token: str = "hf_of_the_tests") -> None:
        """``repositories`` by id, all of owner ``us``, a data set's as ``datasets/us/name``; ``token`` opens gated ones."""
        self.repositories, self.token = repositories, token
        self.requests: list[Request] = []
        self.cut_after = 0  # bytes of a file after which the connection is cut,
        self.cuts = 0  # as many times as this
        self.error: int | None = None  # a status that answers everything
        self.portal = False  # a page to log in at answers everything, as in a hotel
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def file_bytes(self) -> int:
        """How much of files was sent in all."""
        return sum(request.file_bytes for request in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = SOCKET_SECONDS

    def __init__(self, hub: Hub, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        api = re.fullmatch(rf"/api/(?:models/)?{REPOSITORY}(?:/(revision|tree|discussions|auth-check)(?:/([^/]+)(/.+)?)?)?", path)
        file = re.fullmatch(rf"/{REPOSITORY}/resolve/([^/]+)/(.+)", path)
        asked = api or file
        repository = self.hub.repositories.get(asked[1]) if asked else None
        if self.hub.portal:
            self._send(200, {"Content-Type": "text/html"}, b"<html>Please log in.</html>")
        elif self.hub.error:
            self._send(self.hub.error)
        elif asked is None or repository is None:  # the real one doesn't tell strangers which names are taken, either
            self._send(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif api and api[2] == "discussions":
            self._send_json(_discussions(repository))
        elif (commit := repository.commit(unquote(asked[3 if api else 2] or "main"))) is None:
            self._send(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        elif api and api[2] in (None, "revision"):
            self._send_json({"id": api[1].removeprefix("datasets/"), "sha": commit, "siblings": []})
        elif api and api[4]:
            self._send(404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Not a folder", "X-Repo-Commit": commit})
        elif api and api[2] == "tree":
            self._send_json([_entry(path) for path in sorted(repository.folder(commit).iterdir())])
        elif repository.gated and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            status = 403 if self.headers.get("Authorization") else 401
            self._send(status, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted."})
        elif api:
            self._send(200)
        elif not (target := repository.folder(commit) / unquote(asked[3])).is_file():
            self._send(404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found", "X-Repo-Commit": commit})
        else:
            self._send_file(target, commit)

    def _record(self, file_bytes: int = 0) -> None:
        if "/us/" not in self.path:
            return  # the client's own business, which it may change
        range_, authorization = self.headers.get("Range"), self.headers.get("Authorization")
        self.hub.requests.append(Request(self.command, self.path, range_, authorization, file_bytes))

    def _send_json(self, value: object) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _send(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self._record()
        self._send_head(status, {**(headers or {}), "Content-Length": str(len(body))})
        if self.command == "GET":
            self.wfile.write(body)

    def _send_head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_file(self, path: Path, commit: str) -> None:
        content = path.read_bytes()
        ((first, last),) = re.findall(r"^bytes=(\d+)-(\d*)$", self.headers.get("Range") or "bytes=0-")
        start, end = int(first), min(int(last or len(content)), len(content) - 1) + 1
        headers = {"ETag": f'"{_digest(path, "sha256")}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        headers |= {"Content-Length": str(end - start)}
        if "Range" in self.headers:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        body = content[start:end] if self.command == "GET" else b""
        cut = self.command == "GET" and self.hub.cuts > 0 and len(body) > self.hub.cut_after
        if cut:
            self.hub.cuts -= 1
            body = body[: self.hub.cut_after]
            self.close_connection = True
        self._record(len(body))
        self._send_head(206 if "Range" in self.headers else 200, headers)
        self.wfile.write(body)


def _entry(path: Path) -> dict[str, object]:
    return {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": _digest(path, "sha1")}


def _discussions(repository: Repository) -> dict[str, object]:
    discussions = [
        {
            "title": "Adding `safetensors` variant of this model",
            "num": number,
            "author": {"name": author},
            "createdAt": "2024-02-20T10:00:00.000Z",
            "status": "open",
            "repo": {"name": "any/repository", "type": "model"},
            "isPullRequest": True,
        }
        for number, author in repository.pull_requests.items()
    ]
    return {"discussions": discussions, "count": len(discussions), "start": 0}


def environment(url: str, cache: Path, **more: str) -> dict[str, str]:
    """The environment of a process whose hub is at ``url``, with a cache of its own and nobody's token."""
    hidden = {name for name in os.environ if name.startswith(("HF_", "HUGGING"))}
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    root = Path(__file__).resolve().parents[1]
    paths = os.pathsep.join([str(root), str(root / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**kept, "PYTHONPATH": paths, "HF_ENDPOINT": url, "HF_HOME": str(cache), "OMP_NUM_THREADS": "1", **more}


def in_this_process(patch: pytest.MonkeyPatch, url: str, cache: Path, **more: str) -> None:
    """The same for the running process, whose client has read its environment long ago."""
    from huggingface_hub import constants

    values = {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(cache / "hub"),
        "HF_TOKEN_PATH": str(cache / "token"),
        "HF_HUB_OFFLINE": more.get("HF_HUB_OFFLINE") == "1",
    }
    for constant, value in values.items():
        patch.setattr(constants, constant, value)
    patch.delenv("HF_TOKEN", raising=False)
    for name, value in more.items():
        patch.setenv(name, value)
