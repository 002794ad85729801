"""Attention heads, by key/value groups: a key head is removed only with all its query heads, the same number in every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from minigpts.errors import UserError
from minigpts.model.spec import ArchitectureSpec
from minigpts.profiling.statistics import Statistics
from minigpts.pruning.criteria import from_gradients, group_output, group_taylor
from minigpts.pruning.params import Criterion
from minigpts.pruning.slicing import AttentionShape

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def scores(
    weights: Mapping[str, Tensor],
    spec: ArchitectureSpec,
    attention: AttentionShape,
    statistics: Statistics[Tensor],
    criterion: Criterion,
) -> list[Tensor]:
    """The score of each group of each layer, (num_key_value_heads,) per layer: for criterion taylor what the loss would change
    by without it, else what it contributes to the residual stream.

    Raises UserError for criterion taylor where the profile took no gradients.
    """
    found, num_groups = [], attention.num_groups
    for index in range(statistics.num_layers):
        if criterion == "taylor":
            found.append(group_taylor(from_gradients(statistics.heads_taylor(index)), statistics.gradient_count, num_groups))
            continue
        weight = weights[f"{spec.layer(index, spec.attention_out)}.weight"]
        weight_out = weight.T if spec.transposed else weight
        found.append(group_output(statistics.heads(index), statistics.count, weight_out, num_groups))
    return found


def require_removable(spec: ArchitectureSpec, attention: AttentionShape, num_removed: int) -> None:
    """Raise a UserError where ``num_removed`` groups can't go from every layer."""
    rule = f"params.yaml: prune_neurons.heads is {num_removed}, but"
    if not spec.attention_in:
        raise UserError(f"{rule} {spec.model_type} models can lose no head (docs/adding_an_architecture.md says why)")
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
