"""Cuts the quiet MLP neurons out of the model and refits what reads the rest."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from minigpts import artifacts, params
from minigpts.errors import exit_cleanly


@dataclass(frozen=True)
class Params:
    """The top-level ``threshold`` and the ``prune_neurons`` section."""

    threshold: float  # ε of Eq. 1
    criterion: Literal["l1", "wanda", "flap", "magnitude", "random"]  # which neurons go
    allocation: Literal["per_layer", "uniform", "adaptive"]  # from which layers
    target_size_reduction: float | None  # share of the model's parameters to remove; replaces the threshold's budget
    multiple_of: int  # widths kept are multiples of this
    refit: Literal["none", "bias", "least_squares"]  # how the output projections make up for the cut
    linear_threshold: float | None  # the paper's rule on every linear layer
    sequence_length: int  # tokens in one packed sequence of the refit
    seed: int  # of criterion random

    def __post_init__(self) -> None:
        params.require(self.threshold >= 0, "threshold must be ≥ 0", self.threshold)
        target = self.target_size_reduction
        params.require(target is None or 0 <= target < 1, "prune_neurons.target_size_reduction must be in [0, 1)", target)
        params.require(self.multiple_of >= 1, "prune_neurons.multiple_of must be ≥ 1", self.multiple_of)
        params.require(self.sequence_length >= 2, "prune_neurons.sequence_length must be ≥ 2", self.sequence_length)
        if self.linear_threshold is not None:
            params.require(self.linear_threshold >= 0, "prune_neurons.linear_threshold must be ≥ 0", self.linear_threshold)
            to_the_letter = self.allocation == "per_layer" and self.refit == "none"
            rule = "prune_neurons.linear_threshold is the paper to the letter: it needs allocation per_layer and refit none"
            params.require(to_the_letter, rule, (self.allocation, self.refit))


def main(argv: Sequence[str] | None = None) -> None:
    """Load the statistics and the model, score, plan, shrink, refit, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the parent's checkpoint folder")
    parser.add_argument("--stats", type=Path, required=True, help="what profile_activations wrote")
    parser.add_argument("--text", type=Path, required=True, help="calibration text for the refit, parquet")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument("--metrics", type=Path, required=True, help="metrics to write, json")
    parser.add_argument("--widths", type=Path, required=True, help="layer widths to write, csv")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: %(default)s")
    arguments = parser.parse_args(argv)
    settings = params.read(arguments.params, Params, "prune_neurons", top_level=("threshold",))
    runtime = params.read(arguments.params, params.Runtime, "runtime")

    from minigpts import checkpoint
    from minigpts.architectures.registry import spec_for
    from minigpts.pruning import neurons, shrink

    config = checkpoint.load_config(arguments.model)
    spec = spec_for(config.model_type)
    weights = checkpoint.read_weights(arguments.model)
    statistics = artifacts.read_tensors(arguments.stats)
    layers = neurons.evidence(weights, spec, statistics, config.num_hidden_layers, settings.seed)
    target = settings.target_size_reduction
    marked = shrink.linear_marks(statistics, settings.linear_threshold)
    cut = neurons.plan_cut(
        layers,
        criterion=settings.criterion,
        threshold=settings.threshold,
        allocation=settings.allocation,
        multiple_of=settings.multiple_of,
        budget=None if target is None else neurons.budget_for(target, weights, spec, config.num_hidden_layers),
        silenced=shrink.silenced(marked, weights, spec, config.num_hidden_layers),
    )
    if settings.refit == "least_squares":
        pruned = shrink.with_least_squares(arguments.model, spec, cut, arguments.text, settings.sequence_length, runtime)
    else:
        pruned = shrink.sliced(weights, config, spec, cut, statistics if settings.refit == "bias" else None, marked)
    neurons.set_widths(config, spec, [len(keep) for keep in cut.kept])
    with checkpoint.saving(arguments.out, config, pruned, companions=arguments.model) as folder:
        artifacts.write_table(folder / "pruned_neurons.parquet", shrink.index_map(cut))
    artifacts.write_json(arguments.metrics, shrink.metrics(cut, weights, pruned, spec, marked))
    artifacts.write_csv(arguments.widths, shrink.layer_widths(cut))


if __name__ == "__main__":
    exit_cleanly(main)
