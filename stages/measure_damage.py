"""Measure what fewer tokens, MLP neurons, experts, heads, layers and bits cost, each alone: the curves to spend a budget by."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from minigpts import artifacts, params
from minigpts.budget import curves
from minigpts.errors import exit_cleanly
from minigpts.model.weights import num_parameters
from minigpts.pruning.params import Params as PruneParams

if TYPE_CHECKING:
    from minigpts.budget.damage import DamageMeter

INPUTS = {
    "model": "the parent's checkpoint folder",
    "stats": "what profile_activations wrote",
    "counts": "what count_tokens wrote",
    "text": "calibration text, parquet with a column 'text'",
}
FLAGS = {
    **INPUTS,
    "budget": "what check_budget wrote",
    "curves": "the curves to write, json",
}
OPTIONAL = {"keep-terms": "terms whose tokens are kept, a json list; without it, none"}


@dataclass(frozen=True)
class Params:
    """The ``damage`` section."""

    tokens: int  # of the calibration text that trial cuts are fitted on (three quarters) and measured on

    def __post_init__(self) -> None:
        params.require(self.tokens >= 1, "damage.tokens must be ≥ 1", self.tokens)


def main(argv: Sequence[str] | None = None) -> None:
    """Without a budget, write that there are no curves; else measure them."""
    arguments = params.flags(argv, __doc__, FLAGS, OPTIONAL)
    damage = params.read(arguments.params, Params, "damage")
    pruning = params.read(arguments.params, PruneParams, "prune_neurons")
    runtime = params.read(arguments.params, params.Runtime, "runtime")
    measured = None
    budget = artifacts.read_json(arguments.budget)
    if budget["budget"]:
        from minigpts.budget import measuring

        measured = measuring.measured(damage_meter(arguments, damage, pruning, runtime), budget["precisions"])
    curves.write(arguments.curves, measured)


def damage_meter(arguments: argparse.Namespace, damage: Params, pruning: PruneParams, runtime: params.Runtime) -> DamageMeter:
    """What measures trial cuts, from what the flags :data:`INPUTS` name."""
    from minigpts.budget.damage import DamageMeter, split
    from minigpts.model.device import device, require_memory
    from minigpts.pruning import cutting
    from minigpts.vocabulary.choice import VocabularyChoice

    where, parent = device(runtime), cutting.Parent.load(arguments.model, arguments.stats)
    require_memory(4 * num_parameters(parent.stored.shapes), where, "a budget's trial cuts", "set thresholds and no budget")
    vocabulary = VocabularyChoice.of(arguments.model, parent.config, arguments.counts, arguments.keep_terms)
    texts = artifacts.read_table(arguments.text, ["text"])["text"]
    fitted_on, measured_on = split(vocabulary.tokenizer, texts, damage.tokens)
    return DamageMeter(parent, vocabulary, pruning, fitted_on, measured_on, where)


if __name__ == "__main__":
    exit_cleanly(main)
