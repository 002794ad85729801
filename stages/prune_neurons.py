"""Cuts the quiet MLP neurons, and where asked heads and layers, out of the model and refits what reads the rest."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from minigpts import artifacts, params
from minigpts.errors import exit_cleanly
from minigpts.model.weights import StoredWeights


@dataclass(frozen=True)
class Params:
    """The ``prune_neurons`` section."""

    criterion: Literal["l1", "wanda", "flap", "taylor", "magnitude", "random"]  # which neurons go
    allocation: Literal["per_layer", "uniform", "adaptive"]  # from which layers
    multiple_of: int  # widths kept are multiples of this
    refit: Literal["none", "bias", "least_squares"]  # how the output projections make up for the cut
    linear_threshold: float | None  # the paper's rule on every linear layer
    heads: int  # key/value groups, with their query heads, that go from every layer
    layers: int  # whole layers that go
    sequence_length: int  # tokens in one packed sequence of the refit
    seed: int  # of criterion random

    def __post_init__(self) -> None:
        params.require(self.multiple_of >= 1, "prune_neurons.multiple_of must be ≥ 1", self.multiple_of)
        params.require(self.heads >= 0, "prune_neurons.heads must be ≥ 0", self.heads)
        params.require(self.layers >= 0, "prune_neurons.layers must be ≥ 0", self.layers)
        params.require(self.sequence_length >= 2, "prune_neurons.sequence_length must be ≥ 2", self.sequence_length)
        params.require(0 <= self.seed < 2**32, "prune_neurons.seed must be ≥ 0 and < 2^32", self.seed)
        if self.linear_threshold is not None:
            params.require(self.linear_threshold >= 0, "prune_neurons.linear_threshold must be ≥ 0", self.linear_threshold)
            rule = "prune_neurons.linear_threshold is the paper to the letter: allocation per_layer, refit none, heads 0, layers 0"
            chosen = (self.allocation, self.refit, self.heads, self.layers)
            params.require(chosen == ("per_layer", "none", 0, 0), rule, chosen)

    def require_plannable(self) -> None:
        """Raise a UserError where a budget can't be combined with these."""
        rule = "prune_neurons.linear_threshold is the paper to the letter and takes no budget"
        params.require(self.linear_threshold is None, rule, self.linear_threshold)


@dataclass(frozen=True)
class Quiet:
    """What the top level of params.yaml says."""

    threshold: float  # ε of Eq. 1

    def __post_init__(self) -> None:
        params.require(self.threshold >= 0, "threshold must be ≥ 0", self.threshold)


def main(argv: Sequence[str] | None = None) -> None:
    """Load the statistics and the model, score, plan, shrink, refit, save."""
    arguments = _parser().parse_args(argv)
    settings = params.read(arguments.params, Params, "prune_neurons")
    threshold = params.read(arguments.params, Quiet, None, top_level=("threshold",)).threshold
    runtime = params.read(arguments.params, params.Runtime, "runtime")

    from minigpts.budget import plan
    from minigpts.model import checkpoint
    from minigpts.pruning import cutting

    planned = plan.read(arguments.plan)
    if planned is not None:
        settings.require_plannable()
    request = cutting.Request(
        criterion=settings.criterion,
        seed=settings.seed,
        allocation=settings.allocation,
        multiple_of=settings.multiple_of,
        threshold=threshold,
        num_removed_groups=planned.num_removed_key_value_heads if planned else settings.heads,
        num_removed_layers=planned.num_removed_layers if planned else settings.layers,
        widths=planned.widths if planned else None,
    )
    parent = cutting.Parent.load(arguments.model, arguments.stats)
    marked = cutting.linear_marks(parent.statistics, settings.linear_threshold)
    cut = cutting.plan_cut(parent, request, marked)
    texts = artifacts.read_table(arguments.text, ["text"])["text"] if settings.refit == "least_squares" else []
    calibration = cutting.Calibration(settings.refit, texts, settings.sequence_length, runtime)
    config, tensors = cutting.child(parent, cut, calibration, marked)
    with checkpoint.saving(arguments.out, config, tensors, companions=arguments.model) as folder:
        for name, columns in cutting.index_maps(cut).items():
            artifacts.write_table(folder / f"{name}.parquet", columns)
    pruned = StoredWeights(arguments.out)
    artifacts.write_json(arguments.metrics, cutting.metrics(cut, parent.stored, pruned, parent.spec, marked))
    artifacts.write_csv(arguments.widths, cutting.layer_widths(cut))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the parent's checkpoint folder")
    parser.add_argument("--stats", type=Path, required=True, help="what profile_activations wrote")
    parser.add_argument("--text", type=Path, required=True, help="calibration text for the refit, parquet")
    parser.add_argument("--plan", type=Path, help="what plan_budget wrote; without it, threshold, heads and layers hold")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument("--metrics", type=Path, required=True, help="metrics to write, json")
    parser.add_argument("--widths", type=Path, required=True, help="layer widths to write, csv")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: %(default)s")
    return parser


if __name__ == "__main__":
    exit_cleanly(main)
