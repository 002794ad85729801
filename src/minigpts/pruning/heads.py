"""Attention heads, by key/value groups: a key head goes only when all its query heads go, and the same number in every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from minigpts.errors import UserError
from minigpts.model.spec import ArchitectureSpec
from minigpts.pruning.criteria import Criterion, group_output, group_taylor
from minigpts.pruning.slicing import AttentionShape

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def scores(
    weights: Mapping[str, Tensor],
    spec: ArchitectureSpec,
    attention: AttentionShape,
    statistics: Mapping[str, Tensor],
    num_layers: int,
    criterion: Criterion,
) -> list[Tensor]:
    """The score of each group of each layer, (num_key_value_heads,) per layer: for criterion taylor what the loss would change
    by without it, else what it contributes to the residual stream.

    Raises UserError for another model's statistics, and for criterion taylor where the profile took no gradients.
    """
    found = []
    for index in range(num_layers):
        weight = weights[f"{spec.layer(index, spec.attention_out)}.weight"]
        square_sum = statistics.get(f"layers.{index}.heads.square_sum")
        if square_sum is None or len(square_sum) != attention.num_groups * attention.heads_per_group:
            raise UserError(f"the activation statistics don't fit layer {index} of this model; run profile_activations again")
        count, weight_out = int(statistics["count"]), weight.T if spec.transposed else weight
        if criterion == "taylor":
            taylor_sum, tokens = statistics.get(f"layers.{index}.heads.taylor_sum"), int(statistics.get("gradient_count", 0))
            found.append(group_taylor(taylor_sum, tokens, attention.num_groups))
        else:
            found.append(group_output(square_sum, count, weight_out, attention.num_groups))
    return found


def require_removable(spec: ArchitectureSpec, attention: AttentionShape, num_removed: int) -> None:
    """Raise a UserError where ``num_removed`` groups can't go from every layer."""
    rule = f"params.yaml: prune_neurons.heads is {num_removed}, but"
    if not spec.attention_in:
        raise UserError(f"{rule} {spec.model_type} models derive head_dim from hidden_size, so none of their heads can go")
    if num_removed >= attention.num_groups:
        raise UserError(f"{rule} each layer has {attention.num_groups} key/value groups; at least one must stay")


def set_heads(config: PreTrainedConfig, spec: ArchitectureSpec, attention: AttentionShape, num_groups: int) -> None:
    """Write the number of groups that stay into the config; ``head_dim`` stays.

    Raises UserError where the family's classes can't hold it.
    """
    if num_groups == attention.num_groups:
        return
    for field in spec.head_switches:
        if getattr(config, field, False):
            raise UserError(f"params.yaml: prune_neurons.heads must be 0 for this model: config.json has {field}: true")
    config.head_dim = attention.head_dim
    config.num_attention_heads = num_groups * attention.heads_per_group
    config.num_key_value_heads = num_groups
    try:
        config.validate()
    except Exception as error:  # huggingface_hub wraps what the class's own rule says
        said = str(error).strip().splitlines()[-1].strip()
        raise UserError(
            f"params.yaml: prune_neurons.heads leaves {config.num_attention_heads} heads, which"
            f" {config.model_type}'s config refuses: {said}"
        ) from None
