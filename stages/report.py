"""Sum the run up: metrics/summary.json, the figures, one page that shows parent and child side by side, and how to talk to it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from minigpts import artifacts, params
from minigpts.errors import exit_cleanly
from minigpts.model.weights import read_arrays

if TYPE_CHECKING:
    from minigpts.budget.plan import Plan
    from minigpts.reporting.figures import Picture

METRICS = (
    *("dataset", "plan", "prune_neurons", "prune_embeddings", "finetune", "export"),
    *("base", "tuned_parent", "pruned", "finetuned", "exported"),
)

FLAGS = {
    "base": "the parent's checkpoint folder",
    "finetuned": "the child's checkpoint folder",
    "exported": "the folder of the file made from it",
    "stats": "activation_stats.safetensors",
    "counts": "token_counts.parquet",
    "plan": "what plan_budget wrote: where a plan decided, no threshold did",
    "metrics": "folder of the stages' metrics, with plots/ in it",
    "speech": "folder of the replies that evaluate wrote",
    "summary": "summary.json to write",
    "figures": "folder to write the PNG figures in",
    "page": "HTML page to write",
}


@dataclass(frozen=True)
class Params:
    """``threshold`` and ``embedding_threshold``."""

    threshold: float  # ε of Eq. 1, drawn into the magnitudes where it decided
    embedding_threshold: float  # relative frequency, drawn into the token counts where it decided

    def __post_init__(self) -> None:
        params.require(self.threshold >= 0, "threshold must be ≥ 0", self.threshold)
        params.require(0 <= self.embedding_threshold < 1, "embedding_threshold must be ≥ 0 and < 1", self.embedding_threshold)


def main(argv: Sequence[str] | None = None) -> None:
    """Read everything, make everything, then write everything."""
    args = params.flags(argv, __doc__, FLAGS)
    values = params.read(args.params, Params, None, top_level=("threshold", "embedding_threshold"))

    from minigpts.budget import plan
    from minigpts.reporting import chat, page, summary, tokens

    metrics = {name: artifacts.read_json(args.metrics / f"{name}.json") for name in METRICS}
    planned = plan.read(args.plan)
    headlines = summary.summarize(metrics)
    pictures = _pictures(args, values, planned, metrics)
    spoken = {name: artifacts.read_json(args.speech / f"{name}.json") for name in page.EVALUATIONS}
    shown = pictures if planned else pictures[1:]  # without a plan there is no picture of one to look at
    html = page.render(page.Run(metrics, _decided_by(values, planned), shown, spoken, tokens.dropped_tokens(args.finetuned)))

    with artifacts.replacing(args.figures) as temporary:
        temporary.mkdir()
        for picture in pictures:
            (temporary / f"{picture.name}.png").write_bytes(picture.png())
    with artifacts.replacing(args.page) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="xmlcharrefreplace")
    artifacts.write_json(args.summary, headlines)
    print(chat.invitation(args.finetuned, args.exported))


def _decided_by(values: Params, planned: Plan | None) -> dict[str, Any]:
    """The settings that decided the cut."""
    if planned is None:
        return asdict(values)
    return {f"plan.{name}": value for name, value in asdict(planned).items() if name != "widths"}


def _pictures(args: argparse.Namespace, values: Params, planned: Plan | None, metrics: Mapping[str, Any]) -> list[Picture]:
    """The page's figures; a plan's own stands first where there is one."""
    import numpy as np

    from minigpts.profiling.statistics import Statistics
    from minigpts.reporting import figures, sizes

    widths = artifacts.read_csv(args.metrics / "plots" / "layer_widths.csv")
    curve = artifacts.read_csv(args.metrics / "plots" / "recovery.csv")
    counts = np.array(artifacts.read_table(args.counts, ["count"])["count"])
    models = {"parent": sizes.bytes_by_part(args.base), "tuned": sizes.bytes_by_part(args.finetuned)}
    if metrics["export"]:
        models["file"] = sizes.bytes_of_groups(metrics["export"]["bytes_by_group"])
    statistics = Statistics(read_arrays(args.stats))
    experts = [
        statistics.experts(index, "gated_square_sum") for index in range(statistics.num_layers) if statistics.num_experts(index)
    ]
    thresholds = (values.threshold, values.embedding_threshold) if planned is None else (None, None)
    return [
        figures.plan(artifacts.read_csv(args.metrics / "plots" / "plan.csv")),
        figures.expert_contributions(experts)
        if experts
        else figures.neuron_magnitudes(statistics.mean_abs_by_layer(), thresholds[0]),
        figures.token_frequencies(counts, thresholds[1], None if planned is None else planned.num_counted_tokens),
        figures.layer_widths(
            [int(row["width"]) for row in widths],
            [int(row["parent_width"]) for row in widths],
            "experts" if experts else "MLP neurons",
        ),
        figures.recovery(
            [int(row["tokens"]) for row in curve],
            [float(row["validation_bits_per_byte"]) for row in curve],
            float(curve[0]["parent_validation_bits_per_byte"]),
            metrics["finetune"].get("recovered_at_tokens"),
            [float(row["validation_acc_norm"]) for row in curve if row.get("validation_acc_norm")],
            float(parent) if (parent := curve[0].get("parent_validation_acc_norm")) else None,
            metrics["tuned_parent"].get("validation_bits_per_byte"),
        ),
        figures.where_the_bytes_went(models),
    ]


if __name__ == "__main__":
    exit_cleanly(main)
