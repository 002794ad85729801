"""What gathering the statistics costs: the profile's tokens/s over a bare forward of the same model without its head.

python -m benchmarks.profiling [--model data/checkpoints/base] [--text data/prepared/calibration.parquet]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from benchmarks.table import Row, print_rows
from minigpts import artifacts, checkpoint
from minigpts.architectures.registry import spec_for
from minigpts.corpus import packing
from minigpts.profiling.recorder import recording

SEQUENCE_LENGTH, BATCH_ROWS = 512, 4


@torch.inference_mode()
def rows(directory: Path, text: Path, repeats: int = 15) -> list[Row]:
    """Median of the ratios of ``repeats`` pairs, bare and recorded forwards alternating on the same batch."""
    model = checkpoint.load_model(directory, torch.float32)
    spec = spec_for(model.config.model_type)
    documents = packing.encode_lazily(checkpoint.load_fast_tokenizer(directory), artifacts.read_table(text, ["text"])["text"])
    tokens = packing.pack(documents, packing.separator_id(model.config), SEQUENCE_LENGTH, SEQUENCE_LENGTH * BATCH_ROWS)
    batch = torch.from_numpy(tokens)
    decoder = model.get_submodule(spec.decoder)

    def seconds() -> float:
        start = time.perf_counter()
        decoder(input_ids=batch, use_cache=False)
        return time.perf_counter() - start

    def recorded() -> float:
        with recording(model, spec):
            return seconds()

    recorded()
    # Which comes first alternates too, so that a machine that drifts favours neither.
    pairs = [(seconds(), recorded()) if index % 2 else (recorded(), seconds())[::-1] for index in range(repeats)]
    ratio = statistics.median(bare / watched for bare, watched in pairs)
    return [("profiling over a bare forward without the head, tokens/s", f"{ratio:.3f} ×", "≥ 0.98 ×")]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("data/checkpoints/base"))
    parser.add_argument("--text", type=Path, default=Path("data/prepared/calibration.parquet"))
    arguments = parser.parse_args()
    print_rows(rows(arguments.model, arguments.text))


if __name__ == "__main__":
    main()
