"""The user's params with the sizes of a rehearsal: few tokens everywhere, and all else as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from minigpts.model.weights import read_tensors
from minigpts.profiling.statistics import Statistics
from minigpts.quantization.formats import FORMATS, num_bytes
from minigpts.rehearsal.small_parent import LAYERS
from minigpts.training.recipe import Recipe

# The most of each number that a rehearsal takes: each the least that goes through all of the code.
MOST = {
    ("damage", "tokens"): 1024,
    ("prune_neurons", "layers"): LAYERS - 1,
    ("export", "tokens"): 512,
    ("speech", "tokens"): 2,
}
STEPS = 2  # of tuning
LONG = 256  # weights that every format's block divides
PATHS = ("source", "questions", "keep_terms", "general_text")  # of the dataset section


def rehearsed(params: Path, model: Path, share: float, tuning: Recipe, profile_length: int) -> dict[str, Any]:
    """The values of the file ``params`` for a rehearsal with the checkpoint ``model``, ``share`` of the parent in parameters.

    Paths become absolute, since a rehearsal runs elsewhere. ``tuning`` and ``profile_length`` are what the file says of them.
    """
    values = read_yaml(params)
    values["model"] |= {"preset": None, "source": "local", "path": str(model)}
    for name in PATHS:
        if values["dataset"][name] is not None:
            values["dataset"][name] = str(Path(values["dataset"][name]).absolute())
    if values["budget"]["target_megabytes"] is not None:
        values["budget"]["target_megabytes"] *= share
    step = tuning.tokens_per_step
    most = MOST | {
        ("profile", "gradient_tokens"): profile_length,
        ("budget", "trial_tokens"): step,
        ("finetune", "max_tokens"): STEPS * step,
        ("finetune", "evaluations"): STEPS,
        ("export", "scale_tokens"): step,
        ("write_general", "tokens"): 0,  # random weights write nothing worth keeping
    }
    for (section, name), limit in most.items():
        values[section][name] = min(values[section][name], limit)
    # Rounding is most of what a budget takes: in the format of the fewest bits, by which the target can be met if it can be.
    values["budget"]["precisions"] = sorted(values["budget"]["precisions"], key=lambda name: num_bytes(FORMATS[name], (LONG,)))[:1]
    if values["prune_neurons"]["linear_threshold"] is not None:
        values["prune_neurons"]["linear_threshold"] = 0.0
    return values


def lower_threshold(params: Path, statistics: Path) -> None:
    """Lower the file's ``threshold`` until no layer of the profiled model loses more than half of its neurons.

    It is meant for the parent's activations; random weights have others, and a layer could lose all.
    """
    values = read_yaml(params)
    medians = [float(means.median()) for means in Statistics(read_tensors(statistics)).mean_abs_by_layer()]
    write_yaml(params, values | {"threshold": min([values["threshold"], *medians])})


def read_yaml(path: Path) -> dict[str, Any]:
    """A params file as it is."""
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


def write_yaml(path: Path, values: dict[str, Any]) -> None:
    """Write what :func:`read_yaml` reads."""
    with path.open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(values, file)
