"""Measure what cutting vocabulary, MLP neurons, heads and layers costs, each alone: the curves that a budget is spent by."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from minigpts import artifacts, params
from minigpts.budget import curves
from minigpts.errors import exit_cleanly
from minigpts.pruning.params import Params as PruneParams

if TYPE_CHECKING:
    from minigpts.budget.damage import DamageMeter


@dataclass(frozen=True)
class Params:
    """The ``damage`` section."""

    tokens: int  # of the calibration text that trial cuts are fitted on (three quarters) and measured on

    def __post_init__(self) -> None:
        params.require(self.tokens >= 1, "damage.tokens must be ≥ 1", self.tokens)


def main(argv: Sequence[str] | None = None) -> None:
    """Without a budget, write that there are no curves; else measure them."""
    parser = inputs_parser(__doc__)
    parser.add_argument("--budget", type=Path, required=True, help="what check_budget wrote")
    parser.add_argument("--curves", type=Path, required=True, help="the curves to write, json")
    arguments = parser.parse_args(argv)
    damage = params.read(arguments.params, Params, "damage")
    pruning = params.read(arguments.params, PruneParams, "prune_neurons")
    runtime = params.read(arguments.params, params.Runtime, "runtime")
    measured = None
    if artifacts.read_json(arguments.budget)["budget"]:
        from minigpts.budget import planning

        measured = planning.measured(damage_meter(arguments, damage, pruning, runtime))
    curves.write(arguments.curves, measured)


def inputs_parser(description: str | None) -> argparse.ArgumentParser:
    """The flags for what every measurement needs."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", type=Path, required=True, help="the parent's checkpoint folder")
    parser.add_argument("--stats", type=Path, required=True, help="what profile_activations wrote")
    parser.add_argument("--counts", type=Path, required=True, help="what count_tokens wrote")
    parser.add_argument("--keep-terms", type=Path, help="terms whose tokens stay, a json list; without it, none")
    parser.add_argument("--text", type=Path, required=True, help="calibration text, parquet with a column 'text'")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: %(default)s")
    return parser


def damage_meter(arguments: argparse.Namespace, damage: Params, pruning: PruneParams, runtime: params.Runtime) -> DamageMeter:
    """What measures trial cuts, from what :func:`inputs_parser`'s flags lead to."""
    from minigpts.budget.damage import DamageMeter, split
    from minigpts.model.device import device
    from minigpts.pruning import cutting
    from minigpts.vocabulary.choice import VocabularyChoice

    parent = cutting.Parent.load(arguments.model, arguments.stats)
    vocabulary = VocabularyChoice.of(arguments.model, parent.config, arguments.counts, arguments.keep_terms)
    texts = artifacts.read_table(arguments.text, ["text"])["text"]
    fitted_on, measured_on = split(vocabulary.tokenizer, texts, damage.tokens)
    return DamageMeter(parent, vocabulary, pruning, fitted_on, measured_on, device(runtime))


if __name__ == "__main__":
    exit_cleanly(main)
