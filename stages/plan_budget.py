"""Decides where a budget is spent: measures what cutting vocabulary, MLP neurons, heads and layers costs, and plans the cut."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minigpts import artifacts, params
from minigpts.budget import plan
from minigpts.errors import exit_cleanly
from stages.prune_neurons import Params as PruneParams

NO_ROWS = [{"kind": "none", "level": 0, "bytes_freed": 0, "damage": 0.0, "chosen": False}]


@dataclass(frozen=True)
class Params:
    """The ``budget`` section."""

    target_size_reduction: float | None  # share of all parameters to remove at least
    target_megabytes: float | None  # 10^6 bytes of the weights file at most
    damage_tokens: int  # of the calibration text that cuts are fitted on (three quarters) and measured on

    def __post_init__(self) -> None:
        share, size = self.target_size_reduction, self.target_megabytes
        both = "budget.target_size_reduction and budget.target_megabytes can't both be set; make one of them null"
        params.require(share is None or size is None, both, (share, size))
        params.require(share is None or 0 < share < 1, "budget.target_size_reduction must be > 0 and < 1", share)
        params.require(size is None or size > 0, "budget.target_megabytes must be > 0", size)
        params.require(self.damage_tokens >= 1, "budget.damage_tokens must be ≥ 1", self.damage_tokens)


def main(argv: Sequence[str] | None = None) -> None:
    """Without a target, say so and be done; else measure, choose, show and write the plan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the parent's checkpoint folder")
    parser.add_argument("--stats", type=Path, required=True, help="what profile_activations wrote")
    parser.add_argument("--counts", type=Path, required=True, help="what count_tokens wrote")
    parser.add_argument("--keep-terms", type=Path, help="terms whose tokens stay, a json list; without it, none")
    parser.add_argument("--text", type=Path, required=True, help="calibration text, parquet with a column 'text'")
    parser.add_argument("--plan", type=Path, required=True, help="the plan to write, json")
    parser.add_argument("--metrics", type=Path, required=True, help="its figures to write, json")
    parser.add_argument("--curves", type=Path, required=True, help="damage curves to write, csv")
    parser.add_argument("--figure", type=Path, required=True, help="picture to write, png")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: %(default)s")
    arguments = parser.parse_args(argv)
    settings = params.read(arguments.params, Params, "budget")
    cutting = params.read(arguments.params, PruneParams, "prune_neurons")
    runtime = params.read(arguments.params, params.Runtime, "runtime")

    planned, rows, metrics = None, NO_ROWS, {"budget": "none"}
    if settings.target_size_reduction is not None or settings.target_megabytes is not None:
        planned, rows, metrics = _planned(arguments, settings, cutting, runtime)

    from minigpts.reporting import figures

    picture = figures.plan(rows).png()
    plan.write(arguments.plan, planned)
    artifacts.write_json(arguments.metrics, metrics)
    artifacts.write_csv(arguments.curves, rows)
    with artifacts.replacing(arguments.figure) as temporary:
        temporary.write_bytes(picture)


def _planned(
    arguments: argparse.Namespace, settings: Params, cutting: PruneParams, runtime: params.Runtime
) -> tuple[plan.Plan, list, dict]:
    from minigpts.budget import damage, planning, search, table
    from minigpts.pruning import shrink
    from minigpts.vocabulary.choice import VocabularyChoice

    parent = shrink.Parent.load(arguments.model, arguments.stats)
    limit = search.Limit.of(parent.stored, settings.target_size_reduction, settings.target_megabytes)
    vocabulary = VocabularyChoice.of(arguments.model, parent.config, arguments.counts, arguments.keep_terms)
    texts = artifacts.read_table(arguments.text, ["text"])["text"]
    fitted_on, measured_on = damage.split(vocabulary.tokenizer, texts, settings.damage_tokens)
    recovery = shrink.Recovery(cutting.refit, fitted_on, cutting.sequence_length, runtime)
    request = shrink.Request(cutting.criterion, cutting.seed, cutting.allocation, cutting.multiple_of)
    found = planning.make(damage.Bench(parent, vocabulary, recovery, measured_on), request, limit)
    print(table.text(found.rows, found.metrics))
    return found.plan, found.rows, found.metrics


if __name__ == "__main__":
    exit_cleanly(main)
