"""Tune the parent itself as the child is tuned, where tune_parent is true: what a child has to be compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minigpts import artifacts, params, ranks
from minigpts.model import checkpoint
from stages import finetune

NO_CURVE = [{"step": 0, "tokens": 0, "validation_bits_per_byte": None}]


@dataclass(frozen=True)
class Params:
    """What the top level of params.yaml says."""

    tune_parent: bool  # tune the parent too, on as many tokens as the child and by the same recipe


def main(argv: Sequence[str] | None = None) -> None:
    """Tune, or leave a note that there is nothing to compare with."""
    arguments = params.flags(argv, __doc__, finetune.FLAGS, finetune.OPTIONAL)
    if params.read(arguments.params, Params, None, top_level=("tune_parent",)).tune_parent:
        finetune.run(arguments, Path(".scratch/tune_parent"), arguments.model)
        return
    if not ranks.is_main():
        return
    with artifacts.replacing(arguments.out) as folder:
        folder.mkdir()
        artifacts.write_json(folder / checkpoint.SKIPPED, {"tune_parent": False})
    artifacts.write_csv(arguments.curve, NO_CURVE)
    artifacts.write_json(arguments.metrics, {})


if __name__ == "__main__":
    ranks.launch(main)
