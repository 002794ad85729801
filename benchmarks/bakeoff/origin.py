"""What the rows of a CSV are of, kept beside it, so that rows of another model, text or recipe never join them unseen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from minigpts import artifacts
from minigpts.errors import UserError

DIGITS = 16  # of a sha256, in hexadecimal


def of(value: Any) -> str:
    """A digest of what JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:DIGITS]


def of_files(paths: Iterable[Path]) -> str:
    """A digest of the files' bytes."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:DIGITS]


def require_same(out: Path, origin: Mapping[str, str]) -> None:
    """Keep ``origin``, digests by what they are of, beside the CSV ``out``.

    Raises UserError where the rows that are there are of something else, or nothing says what of.
    """
    path = out.with_suffix(".json")
    if out.exists() and not path.exists():
        raise UserError(f"{out}: without {path.name} beside it nobody knows what its rows are of; give another --out")
    known = artifacts.read_json(path) if path.exists() else {}
    for name, value in origin.items():
        if known.get(name, value) != value:
            raise UserError(f"{out}: its rows are of another {name}; give another --out")
    artifacts.write_json(path, {**known, **origin})
