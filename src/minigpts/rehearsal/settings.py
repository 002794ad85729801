"""The user's params with the sizes of a rehearsal: few tokens everywhere, and all else as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

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
PATHS = ("source", "questions", "keep_terms", "general_text")  # of the dataset section


def rehearsed(params: Path, model: Path, share: float, tuning: Recipe, profile_length: int) -> dict[str, Any]:
    """The values of the file ``params`` for a rehearsal with the checkpoint ``model``, ``share`` of the parent in parameters.

    Paths become absolute, since a rehearsal runs elsewhere. ``tuning`` and ``profile_length`` are what the file says of them.
    """
    values = YAML(typ="safe", pure=True).load(params.read_text(encoding="utf-8"))
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
    return values
