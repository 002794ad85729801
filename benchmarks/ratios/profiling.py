"""What gathering the statistics costs, over a bare forward of the same model without its head: the profile's tokens/s, and
the time of the gradient pass that ``profile.gradient_tokens`` adds.

python -m benchmarks.ratios.profiling [--model data/checkpoints/base] [--text data/prepared/calibration.parquet]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.device import DEVICE, wait
from benchmarks.table import Row, print_rows
from minigpts import artifacts
from minigpts.model import checkpoint, packing
from minigpts.model.families import spec_for
from minigpts.profiling.gradients import taylor_sums
from minigpts.profiling.recorder import blocks, recording

SEQUENCE_LENGTH = 512


def rows(directory: Path, text: Path, repeats: int = 15, gradient_repeats: int = 5) -> list[Row]:
    """Medians of the ratios of pairs, bare and measured passes alternating on the same batch."""
    model = checkpoint.load_model(directory, torch.float32).to(DEVICE)
    spec = spec_for(model.config.model_type)
    tokenizer, texts = checkpoint.load_fast_tokenizer(directory), artifacts.read_table(text, ["text"])["text"]
    tokens = packing.pack_texts(tokenizer, model.config, texts, SEQUENCE_LENGTH, SEQUENCE_LENGTH * 4)
    batch = blocks(torch.from_numpy(tokens).to(DEVICE))[0]  # as many sequences as the stage runs at once
    decoder = model.get_submodule(spec.decoder)

    @torch.inference_mode()
    def bare(sequences: torch.Tensor) -> None:
        decoder(input_ids=sequences, use_cache=False)

    def recorded(sequences: torch.Tensor) -> None:
        with recording(model, spec):
            bare(sequences)

    watched = median_ratio(lambda: bare(batch), lambda: recorded(batch), repeats)
    one = batch[:1]
    gradients = median_ratio(lambda: taylor_sums(model, spec, one), lambda: bare(one), gradient_repeats)
    return [
        ("profiling over a bare forward without the head, tokens/s", f"{watched:.3f} ×", "≥ 0.98 ×"),
        ("gradient pass, head included, over a bare forward without the head, time", f"{gradients:.2f} ×", "≤ 3 ×"),
    ]


def median_ratio(first: Callable[[], object], second: Callable[[], object], repeats: int) -> float:
    """The median of first's time over second's in ``repeats`` pairs, after one of each that doesn't count."""

    def seconds(run: Callable[[], object]) -> float:
        start = time.perf_counter()
        run()
        wait()
        return time.perf_counter() - start

    seconds(first), seconds(second)
    # Which comes first alternates, so that a machine that drifts favours neither.
    pairs = [
        (seconds(first), seconds(second)) if index % 2 else (seconds(second), seconds(first))[::-1] for index in range(repeats)
    ]
    return statistics.median(one / other for one, other in pairs)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("data/checkpoints/base"))
    parser.add_argument("--text", type=Path, default=Path("data/prepared/calibration.parquet"))
    arguments = parser.parse_args()
    print_rows(rows(arguments.model, arguments.text))


if __name__ == "__main__":
    main()
