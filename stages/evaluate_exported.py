"""Measure the exported file as every checkpoint is measured: its weights read back, dequantized as llama.cpp does it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minigpts import params
from minigpts.errors import UserError, exit_cleanly
from minigpts.model import checkpoint
from minigpts.model.weights import StoredWeights
from stages import evaluate

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

FLAGS = {
    **evaluate.FLAGS,
    "model": "the checkpoint folder that the file was made from: config and tokenizer",
    "exported": "the folder of the file",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Find the file and run the stage `evaluate` on it; write no metrics where none was exported."""
    arguments = params.flags(argv, __doc__, FLAGS)
    files = sorted(arguments.exported.glob("*.gguf"))
    if len(files) != 1 and not (arguments.exported / checkpoint.SKIPPED).exists():
        raise UserError(f"{arguments.exported}: holds {len(files)} GGUF files, expected one; run `dvc repro export`")

    def load(directory: Path, dtype: torch.dtype) -> PreTrainedModel:
        from minigpts.exporting import read_back

        config, shapes = checkpoint.load_config(directory), StoredWeights(directory).shapes
        return checkpoint.load_model(directory, dtype, read_back.read(files[0], config, shapes))

    evaluate.run(arguments, arguments.exported, load, next(iter(files), None))


if __name__ == "__main__":
    exit_cleanly(main)
