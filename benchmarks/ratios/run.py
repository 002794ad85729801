"""Every ratio of `make bench`, side by side in one run, kept in benchmarks/results/ratios.csv with the machine's description.

Needs what `make repro` leaves. Ratios of one run compare; seconds of two machines don't, so none are kept.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
import transformers

from benchmarks.ratios import finetuning, inference, profiling, pruning, token_counting, tokenizer_trimming
from benchmarks.table import Row, as_markdown
from minigpts import artifacts

CHECKPOINTS, PREPARED, PROFILE = Path("data/checkpoints"), Path("data/prepared"), Path("data/profile")
BASE = CHECKPOINTS / "base"

BENCHMARKS: dict[str, Callable[[], list[Row]]] = {
    "profiling": lambda: profiling.rows(BASE, PREPARED / "calibration.parquet"),
    "token counting": lambda: token_counting.rows(BASE, PREPARED / "train.parquet"),
    "pruning": lambda: pruning.rows(
        BASE, PROFILE / "activation_stats.safetensors", PROFILE / "token_counts.parquet", PREPARED / "calibration.parquet"
    ),
    "tokenizer": lambda: tokenizer_trimming.rows(BASE, PREPARED / "train.parquet", PREPARED / "test.parquet"),
    "inference": lambda: inference.rows(BASE, CHECKPOINTS / "finetuned"),
    "fine-tuning": finetuning.rows,
}


def machine() -> str:
    """What the ratios were taken on: processor, cores torch uses, and the libraries' versions."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{model}, {torch.get_num_threads()} threads, {device}; Python {platform.python_version()}, torch {torch.__version__},"
        f" transformers {transformers.__version__}, tokenizers {version('tokenizers')}"
    )


def main() -> None:
    """Measure, print each table as it comes, and keep them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ratios.csv"), help="default: %(default)s")
    arguments = parser.parse_args()
    found: list[Row] = []
    for name, measure in BENCHMARKS.items():
        print(f"\n{name} …", flush=True)
        rows = measure()
        print(as_markdown(rows), flush=True)
        found += rows
    of = machine()
    lines = [{"what": what, "measured": measured, "target": target, "machine": of} for what, measured, target in found]
    artifacts.write_csv(arguments.out, lines)


if __name__ == "__main__":
    main()
