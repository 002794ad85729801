"""Remove the quiet MLP neurons, and where asked heads and layers, from the model and refit what reads the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minigpts import artifacts, params
from minigpts.errors import exit_cleanly
from minigpts.model.weights import StoredWeights
from minigpts.pruning.params import ByPlan, ByThreshold, Params

FLAGS = {
    "model": "the parent's checkpoint folder",
    "stats": "what profile_activations wrote",
    "text": "calibration text for the refit, parquet",
    "out": "checkpoint folder to write",
    "metrics": "metrics to write, json",
    "widths": "layer widths to write, csv",
}
OPTIONAL = {
    "plan": "what plan_budget wrote; without it, threshold, heads, layers and experts hold",
}


@dataclass(frozen=True)
class Quiet:
    """What the top level of params.yaml says."""

    threshold: float  # ε of Eq. 1

    def __post_init__(self) -> None:
        params.require(self.threshold >= 0, "threshold must be ≥ 0", self.threshold)


def main(argv: Sequence[str] | None = None) -> None:
    """Load the statistics and the model, choose, cut, refit, save."""
    arguments = params.flags(argv, __doc__, FLAGS, OPTIONAL)
    settings = params.read(arguments.params, Params, "prune_neurons")
    threshold = params.read(arguments.params, Quiet, None, top_level=("threshold",)).threshold
    runtime = params.read(arguments.params, params.Runtime, "runtime")

    from minigpts.budget import plan
    from minigpts.model import checkpoint
    from minigpts.model.device import computed_on, device
    from minigpts.pruning import cutting, index_maps

    planned, where = plan.read(arguments.plan), device(runtime)
    decision = (
        ByThreshold(settings, threshold)
        if planned is None
        else ByPlan(
            settings,
            planned.widths,
            planned.num_removed_key_value_heads,
            planned.num_removed_layers,
            planned.num_removed_experts,
        )
    )
    parent = cutting.Parent.load(arguments.model, arguments.stats)
    cut = cutting.choose(parent, decision)
    texts = artifacts.read_table(arguments.text, ["text"])["text"] if settings.refit == "least_squares" else []
    config, tensors = cutting.child(parent, cut, texts, where)
    with checkpoint.saving(arguments.out, config, tensors, companions=arguments.model) as folder:
        for name, columns in index_maps.index_maps(cut).items():
            artifacts.write_table(folder / f"{name}.parquet", columns)
    pruned = StoredWeights(arguments.out)
    found = cutting.metrics(cut, parent.stored, pruned, parent.spec)
    artifacts.write_json(arguments.metrics, {**found, "computed_on": computed_on(where)})
    artifacts.write_csv(arguments.widths, index_maps.layer_widths(cut))


if __name__ == "__main__":
    exit_cleanly(main)
