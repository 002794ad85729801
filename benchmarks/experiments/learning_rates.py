"""Learning rates: the rate that the recipe finds beside a sweep, on the pruned child that lies in the project.

python -m benchmarks.experiments.learning_rates [--rates 5e-5 1e-4 2e-4 4e-4] [--set KEY=VALUE …]

Runs the pipeline once a rate and once with none, each a DVC experiment that takes all but the tuning from the cache where `dvc
repro` has been run, and prints a table of validation bits per byte. ``--set`` passes on further params (finetune.max_tokens …).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.experiments import queue
from benchmarks.table import markdown
from minigpts.errors import exit_cleanly

FOUND = "null"


def main(argv: Sequence[str] | None = None) -> None:
    """Queue, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", nargs="+", default=["5e-5", "1e-4", "2e-4", "4e-4"], help="(default: %(default)s)")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="a further -S of dvc exp run"
    )
    parser.add_argument("--hours", type=float, default=12, help="before a run is given up (default: %(default)s)")
    args = parser.parse_args(argv)
    names = {queue.named("rate", rate, *args.settings): rate for rate in (*args.rates, FOUND)}
    queue.queue({name: [f"finetune.learning_rate={rate}", *args.settings] for name, rate in names.items()})
    queue.work_off(list(names), args.hours, "rate")
    rows = []
    for name in queue.finished(names):
        metrics = queue.metrics(name, ["finetune"])["finetune"]
        before, last, best = (f"{metrics[f'validation_bits_per_byte_{point}']:.4f}" for point in ("before", "last", "best"))
        found = f"{metrics['learning_rate']:g}" + (" (found)" if names[name] == FOUND else "")
        rows.append([found, before, last, best, str(metrics["best_step"])])
    print(markdown(("learning rate", "before", "last", "best", "at step"), rows))


if __name__ == "__main__":
    exit_cleanly(main)
