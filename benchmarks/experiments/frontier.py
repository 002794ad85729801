"""Quality against size: the pipeline over several sizes, beside the parent untouched and the parent tuned on as many tokens.

python -m benchmarks.experiments.frontier [--sizes 0.3 0.42 0.55 0.7] [--data NAME] [--set KEY=VALUE …]

Queues a DVC experiment a size, with ``tune_parent=true``, runs the queue, and collects. Queued
experiments see only files that git tracks; what one of them has made, the next takes from the run cache. Sizes are
``budget.target_size_reduction``; ``--set`` passes on further params, such as dataset.source for text of your own, whose rows
``--data`` names. Rows of other data and other sizes stay. ``--collect`` queues nothing and takes the experiments that are there.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from benchmarks.experiments import queue
from benchmarks.table import Line, merge
from minigpts import artifacts
from minigpts.errors import UserError, exit_cleanly
from minigpts.reporting.figures import Picture
from minigpts.reporting.style import Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRICS = ("summary", "finetune", "base", "finetuned", "tuned_parent")
BASE, CHILD = Path("data/checkpoints/base"), Path("data/checkpoints/finetuned")


@dataclass(frozen=True)
class Point:
    """One experiment's figures."""

    metrics: Mapping[str, Mapping[str, Any]]  # by file stem
    speed: float | None = None  # tokens/s of decoding over the parent's; None where a checkpoint isn't at hand

    def row(self, data: str) -> dict[str, Any]:
        """Its line of the CSV."""
        summary, child = self.metrics["summary"], self.metrics["finetuned"]
        return {
            "data": data,
            "size_reduction": summary["size_reduction"],
            "bytes_reduction": 1 - child["checkpoint_bytes"] / self.metrics["base"]["checkpoint_bytes"],
            "tuned_tokens": self.metrics["finetune"]["tokens"],
            **{name: child.get(name) for name in ("perplexity", "bits_per_byte", "acc")},  # acc: empty without questions
            "perplexity_parent": self.metrics["base"]["perplexity"],
            "perplexity_tuned_parent": self.metrics["tuned_parent"]["perplexity"],
        }


def collect(name: str, parent: Path) -> Point:
    """The figures of a finished experiment, and its speed where its child can be fetched from the cache."""
    metrics = queue.metrics(name, METRICS)
    with tempfile.TemporaryDirectory() as folder:
        child = Path(folder) / "child"
        try:
            queue.fetch(name, str(CHILD), child)
        except UserError:
            return Point(metrics)
        return Point(metrics, relative_speed(parent, child))


def relative_speed(parent: Path, child: Path) -> float | None:
    """Tokens/s of decoding over the parent's, both measured now on this machine."""
    if not all((folder / "model.safetensors").exists() and (folder / "config.json").exists() for folder in (parent, child)):
        return None
    from benchmarks.ratios import inference

    return inference.decoding_speedup(parent, child)


def key(line: Line) -> tuple[str, float]:
    """Two lines of the same data and size, to a percent, are about the same."""
    return line["data"], round(float(line["size_reduction"]), 2)


def picture(points: Sequence[Point], data: str) -> Picture:
    """Bits per byte and answers over size, with the two parents as lines; bytes and speed stand at the points."""
    points = sorted(points, key=lambda point: point.metrics["summary"]["size_reduction"])
    percent = [100 * point.metrics["summary"]["size_reduction"] for point in points]
    first = points[0].metrics
    tokens = first["finetune"]["tokens"]

    def panel(axes: Axes, theme: Theme, key: str, factor: float) -> list[float]:
        values = [factor * point.metrics["finetuned"][key] for point in points]
        axes.plot(percent, values, color=theme.child, marker="o", markersize=4.5, label="child, tuned")
        axes.axhline(factor * first["base"][key], color=theme.parent, linestyle="--", label="parent, untouched")
        axes.axhline(factor * first["tuned_parent"][key], color=theme.cut, linestyle=":", label="parent, tuned alike")
        axes.margins(x=0.1, y=0.25)
        return values

    def draw(axes: Axes, theme: Theme) -> None:
        answered = "acc" in first["base"]
        if answered:
            rows = axes.figure.add_gridspec(2, 1, height_ratios=(3, 2))  # type: ignore[union-attr]
            axes.set_subplotspec(rows[0])
            axes.tick_params(labelbottom=False)
        for x, y, point in zip(percent, panel(axes, theme, "bits_per_byte", 1), points, strict=True):
            size = f"{point.metrics['finetuned']['checkpoint_bytes'] / 1e6:,.3g} MB"
            text = size if point.speed is None else f"{size}\n{point.speed:.2g} × speed"
            behind = {"facecolor": theme.background, "edgecolor": "none", "alpha": 0.85, "pad": 1}  # keeps it clear of lines
            axes.annotate(text, (x, y), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=7, bbox=behind)
        axes.set_ylabel("bits per byte")
        axes.legend(loc="best", fontsize=7)
        lowest = axes
        if answered:
            lowest = axes.figure.add_subplot(rows[1], sharex=axes)
            panel(lowest, theme, "acc", 100)
            lowest.set_ylabel("answers (%)")
        lowest.set_xlabel("parameters gone (%)")

    values = "; ".join(
        f"{x:.0f} % {point.metrics['finetuned']['bits_per_byte']:.3f}" for x, point in zip(percent, points, strict=True)
    )
    return Picture(
        "frontier",
        f"Quality against size: {data}",
        f"Test bits per byte (lower is better) and answers of children of several sizes, all tuned on {tokens:,} tokens, beside the"
        " parent as it was and the parent tuned on as many. Speed: tokens/s of decoding over the parent's.",
        f"Bits per byte by share of parameters gone: {values}; the parent {first['base']['bits_per_byte']:.3f}, tuned alike"
        f" {first['tuned_parent']['bits_per_byte']:.3f}.",
        draw,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Queue, run, collect, write; say what failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.3, 0.42, 0.55, 0.7], help="share of the parameters to go")
    parser.add_argument("--data", default="medical", help="what the rows are called (default: %(default)s)")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="a further -S of dvc exp run"
    )
    parser.add_argument("--parent", type=Path, default=BASE, help="whose speed is compared (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/frontier.csv"), help="and .png (default: %(default)s)")
    parser.add_argument("--hours", type=float, default=12, help="before the queue is given up (default: %(default)s)")
    parser.add_argument("--collect", action="store_true", help="take the experiments that are there; queue none")
    arguments = parser.parse_args(argv)
    sizes = {queue.named("frontier", arguments.data, f"{round(1000 * size):03d}"): size for size in arguments.sizes}
    if not arguments.collect:
        settings = ["tune_parent=true", *arguments.settings]
        wanted = {name: [f"budget.target_size_reduction={size}", *settings] for name, size in sizes.items()}
        queue.queue(wanted)
        queue.work_off(list(sizes), arguments.hours, "size")
    finished = queue.finished({name: f"size {size:g}" for name, size in sizes.items()})
    points = [collect(name, arguments.parent) for name in tqdm(finished, desc="collecting", unit="size")]
    merge(arguments.out, [point.row(arguments.data) for point in points], key)
    with artifacts.replacing(arguments.out.with_suffix(".png")) as temporary:
        temporary.write_bytes(picture(points, arguments.data).png())


if __name__ == "__main__":
    exit_cleanly(main)
