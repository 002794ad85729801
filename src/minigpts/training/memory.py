"""Whether the machine has the memory that tuning needs, asked before an hour is spent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from minigpts import ranks
from minigpts.model.device import available_memory, require_memory
from minigpts.model.families import spec_for
from minigpts.model.weights import Shapes, num_parameters

if TYPE_CHECKING:
    import torch

    from minigpts.training.recipe import Recipe

SHARE = "share the weights among more processes (docs/scale.md)"


def require_fit(recipe: Recipe, model_type: str, shapes: Shapes, where: torch.device) -> None:
    """Raise a UserError where the weights, gradients and moments of a checkpoint with ``shapes`` take more than there is, text
    left out; it names what fits. Several processes may share them: of those nothing is asked."""
    if ranks.count() > 1:
        return
    spec, total = spec_for(model_type), num_parameters(shapes)
    vocabulary = (f"{spec.embedding}.weight", f"{spec.stored_lm_head}.weight")
    outside = sum(math.prod(shapes[name]) for name in vocabulary if name in shapes)
    tuned, adapters = recipe.tuned(total, outside), 4 * total
    instead = f"finetune.lora_rank fits in {adapters / 1e9:.1f} GB; or {SHARE}"
    if recipe.lora_rank or adapters > available_memory(where):
        instead = f"a smaller child, or {SHARE}; export takes the pruned checkpoint as well"
    what = "tuning adapters of" if recipe.lora_rank else f"tuning {tuned / 1e6:,.0f} M of"
    require_memory(recipe.weight_bytes(total, outside), where, f"{what} {total / 1e6:,.0f} M weights", instead)
