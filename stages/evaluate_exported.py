"""Measure the exported file as every checkpoint is measured: its weights read back, dequantized as llama.cpp does it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from minigpts import params, ranks
from stages import evaluate

FLAGS = {
    **evaluate.FLAGS,
    "model": "the checkpoint folder that the file was made from: config and tokenizer",
    "exported": "the folder of the file",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Find the file and run the stage `evaluate` on it; write no metrics where none was exported."""
    arguments = params.flags(argv, __doc__, FLAGS)

    from minigpts.gguf_layout import read_back

    file = read_back.file_in(arguments.exported)
    evaluate.run(arguments, arguments.exported, partial(read_back.exported_weights, arguments.exported), file)


if __name__ == "__main__":
    ranks.launch(main)
