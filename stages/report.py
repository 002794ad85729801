"""Sum the run up: metrics/summary.json, the figures, and one page that shows parent and child side by side."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from minigpts import artifacts, params
from minigpts.errors import exit_cleanly

if TYPE_CHECKING:
    from minigpts.reporting.figures import Picture

METRICS = ("dataset", "plan", "prune_neurons", "prune_embeddings", "finetune", "base", "pruned", "finetuned")


@dataclass(frozen=True)
class Params:
    """``threshold``, ``embedding_threshold`` and the section ``report``."""

    threshold: float  # ε of Eq. 1, drawn into the magnitudes
    embedding_threshold: float  # relative frequency, drawn into the token counts
    prompts: tuple[str, ...]  # parent and child go on from each; an empty list leaves the samples out
    max_new_tokens: int  # of each continuation

    def __post_init__(self) -> None:
        params.require(self.threshold >= 0, "threshold must be ≥ 0", self.threshold)
        params.require(0 <= self.embedding_threshold < 1, "embedding_threshold must be ≥ 0 and < 1", self.embedding_threshold)
        params.require(all(self.prompts), "report.prompts must not hold an empty prompt", self.prompts)
        params.require(self.max_new_tokens >= 1, "report.max_new_tokens must be ≥ 1", self.max_new_tokens)


def main(argv: Sequence[str] | None = None) -> None:
    """Read everything, make everything, then write everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="the parent's checkpoint folder")
    parser.add_argument("--finetuned", type=Path, required=True, help="the child's checkpoint folder")
    parser.add_argument("--stats", type=Path, required=True, help="activation_stats.safetensors")
    parser.add_argument("--counts", type=Path, required=True, help="token_counts.parquet")
    parser.add_argument("--metrics", type=Path, required=True, help="folder of the stages' metrics, with plots/ in it")
    parser.add_argument("--summary", type=Path, required=True, help="summary.json to write")
    parser.add_argument("--figures", type=Path, required=True, help="folder to write the PNG figures in")
    parser.add_argument("--page", type=Path, required=True, help="HTML page to write")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: %(default)s")
    args = parser.parse_args(argv)
    values = params.read(args.params, Params, "report", top_level=("threshold", "embedding_threshold"))

    from minigpts.reporting import page, samples, summary, tokens

    metrics = {name: artifacts.read_json(args.metrics / f"{name}.json") for name in METRICS}
    headlines = summary.summarize(metrics["base"], metrics["finetuned"], metrics["finetune"])
    pictures = _pictures(args, values, metrics["finetune"].get("recovered_at_tokens"))
    texts = [samples.continuations(folder, values.prompts, values.max_new_tokens) for folder in (args.base, args.finetuned)]
    pairs = [page.Sample(*sample) for sample in zip(values.prompts, *texts, strict=True)]
    shown = {name: getattr(values, name) for name in ("threshold", "embedding_threshold", "max_new_tokens")}
    figures = [*_plan(args, metrics["plan"]), *pictures]
    html = page.render(page.Run(headlines, metrics, shown, figures, pairs, tokens.dropped_tokens(args.finetuned)))

    for picture in pictures:
        with artifacts.replacing(args.figures / f"{picture.name}.png") as temporary:
            temporary.write_bytes(picture.png())
    with artifacts.replacing(args.page) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="xmlcharrefreplace")
    artifacts.write_json(args.summary, headlines)


def _plan(args: argparse.Namespace, metrics: dict) -> list[Picture]:
    """Where a budget was spent, if there was one; the picture's file is plan_budget's."""
    from minigpts.reporting import figures

    if "num_parameters" not in metrics:
        return []
    rows = artifacts.read_csv(args.metrics / "plots" / "plan.csv")
    numbers = [{**row, **{key: float(row[key]) for key in ("bytes_freed", "damage")}} for row in rows]
    return [figures.plan([{**row, "chosen": row["chosen"] == "True"} for row in numbers])]


def _pictures(args: argparse.Namespace, values: Params, recovered_at_tokens: int | None) -> list[Picture]:
    import numpy as np

    from minigpts.profiling.statistics import Statistics
    from minigpts.reporting import figures, sizes

    widths = artifacts.read_csv(args.metrics / "plots" / "layer_widths.csv")
    curve = artifacts.read_csv(args.metrics / "plots" / "recovery.csv")
    return [
        figures.neuron_magnitudes(Statistics(artifacts.read_arrays(args.stats)).mean_abs_by_layer(), values.threshold),
        figures.token_frequencies(np.array(artifacts.read_table(args.counts, ["count"])["count"]), values.embedding_threshold),
        figures.layer_widths([int(row["width"]) for row in widths], [int(row["parent_width"]) for row in widths]),
        figures.recovery(
            [int(row["tokens"]) for row in curve],
            [float(row["validation_bits_per_byte"]) for row in curve],
            float(curve[0]["parent_validation_bits_per_byte"]),
            recovered_at_tokens,
            [float(row["validation_acc_norm"]) for row in curve if row.get("validation_acc_norm")],
            float(parent) if (parent := curve[0].get("parent_validation_acc_norm")) else None,
        ),
        figures.where_the_bytes_went(sizes.bytes_by_part(args.base), sizes.bytes_by_part(args.finetuned)),
    ]


if __name__ == "__main__":
    exit_cleanly(main)
