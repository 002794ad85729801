"""Decide where a budget is spent: search measure_damage's curves for the plans that hurt least, and tune those to find the best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minigpts import artifacts, params
from minigpts.budget import curves, plan
from minigpts.corpus.settings import Settings
from minigpts.errors import UserError, exit_cleanly
from minigpts.importing.source import ModelSource
from minigpts.pruning.params import Params as PruneParams
from minigpts.training.recipe import Recipe
from stages.check_budget import Params
from stages.measure_damage import INPUTS, OPTIONAL, damage_meter
from stages.measure_damage import Params as DamageParams

FLAGS = {
    **INPUTS,
    "curves": "what measure_damage wrote",
    "train": "training text for the trials, parquet with a column 'text'",
    "plan": "the plan to write, json",
    "metrics": "its figures to write, json",
    "table": "what was measured, and what the plan takes of it, to write, csv",
}
NO_ROWS = [{"kind": "none", "format": "", "level": 0, "bytes_freed": 0, "damage": 0.0, "standard_error": None, "chosen": False}]


def main(argv: Sequence[str] | None = None) -> None:
    """Without a target, say so and be done; else choose, show and write the plan."""
    arguments = params.flags(argv, __doc__, FLAGS, OPTIONAL)
    settings = params.read(arguments.params, Params, "budget")
    damage = params.read(arguments.params, DamageParams, "damage")
    pruning = params.read(arguments.params, PruneParams, "prune_neurons")
    finetune = params.read(arguments.params, Recipe, "finetune")
    parent = params.read(arguments.params, ModelSource, "model")
    dataset = params.read(arguments.params, Settings, "dataset")
    runtime = params.read(arguments.params, params.Runtime, "runtime")

    planned, rows = None, NO_ROWS
    metrics: dict[str, Any] = {"budget": "none"}
    if settings.is_set:
        measured = curves.read(arguments.curves)
        if measured is None:
            raise UserError(f"{arguments.curves}: measured without a budget; run check_budget and measure_damage again")
        from minigpts.budget import planning, table
        from minigpts.budget.space import Limit
        from minigpts.budget.trials import Tuning
        from minigpts.exporting.general_section import Provenance
        from minigpts.model.device import computed_on
        from minigpts.training.data import read_text

        meter = damage_meter(arguments, damage, pruning, runtime)
        limit = Limit.of(meter.parent.stored, settings.target_size_reduction, settings.target_megabytes)
        texts, spans = read_text(arguments.train) if settings.trial_tokens else ([], [])
        tuning = Tuning(settings.trial_tokens, texts, spans, finetune, runtime)
        origin = Provenance(parent.name, parent.version, parent.url, parent.licence, dataset.name, 0, 0)
        planned, rows, metrics = planning.make(meter, measured, limit, settings.precisions, tuning, origin)
        metrics = {**metrics, "computed_on": computed_on(meter.where)}
        print(table.text(rows, metrics))

    plan.write(arguments.plan, planned)
    artifacts.write_json(arguments.metrics, metrics)
    artifacts.write_csv(arguments.table, rows)


if __name__ == "__main__":
    exit_cleanly(main)
