"""Cuts on the tensors of one decoder layer: outputs of what makes a unit, inputs of what reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minigpts.model import experts
from minigpts.model.spec import ArchitectureSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class LayerCut:
    """What stays of one layer that stays."""

    index: int  # of the layer in the parent
    neurons: Tensor  # MLP neurons, sorted, int64
    groups: Tensor  # key/value groups, sorted, int64
    experts: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))  # sorted; none in a dense layer


@dataclass(frozen=True)
class AttentionShape:
    """How many heads a layer has. A group is one key head, one value head and the query heads that read them."""

    num_groups: int  # num_key_value_heads
    heads_per_group: int  # query heads of one group
    head_dim: int

    @classmethod
    def of(cls, config: PreTrainedConfig) -> AttentionShape:
        """Read it off a config; without grouped-query attention every head is a group of its own."""
        num_heads = config.num_attention_heads
        num_groups = getattr(config, "num_key_value_heads", None) or num_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // num_heads
        return cls(num_groups, num_heads // num_groups, head_dim)

    def query_features(self, groups: Tensor) -> Tensor:
        """Indices among the concatenated query heads (and so among the inputs of the attention's output projection)."""
        return _spread(groups, self.heads_per_group * self.head_dim)

    def key_features(self, groups: Tensor) -> Tensor:
        """Indices among the concatenated key heads, or value heads."""
        return _spread(groups, self.head_dim)


def _spread(indices: Tensor, size: int) -> Tensor:
    """The features of units of ``size`` features each."""
    return (indices[:, None] * size + torch.arange(size)).flatten()


def slice_layer(
    tensors: Mapping[str, Tensor], spec: ArchitectureSpec, cut: LayerCut, attention: AttentionShape
) -> dict[str, Tensor]:
    """The layer's tensors (names relative to it) without the neurons, groups and experts that go, physically.

    Biases of the output projections belong to the residual stream and stay, as do norms over single heads.
    """
    sliced = dict(tensors)
    if spec.experts is not None and len(cut.experts):
        sliced = experts.keep(sliced, spec.experts, cut.experts)
    if spec.mlp_out:
        width = sliced[f"{spec.mlp_out}.weight"].shape[spec.input_axis]
        made = torch.cat([cut.neurons + block * width for block in range(spec.mlp_in_blocks)])
        for module in spec.mlp_in:
            _keep_outputs(sliced, spec, module, made)
        _keep_inputs(sliced, spec, spec.mlp_out, cut.neurons)
    if len(cut.groups) < attention.num_groups:
        query, key = attention.query_features(cut.groups), attention.key_features(cut.groups)
        parts = [query, key, key]
        if len(spec.attention_in) == 1:  # outputs are [query | key | value]
            num_keys = attention.num_groups * attention.head_dim
            num_queries = num_keys * attention.heads_per_group
            parts = [torch.cat([query, num_queries + key, num_queries + num_keys + key])]
        for module, features in zip(spec.attention_in, parts, strict=True):
            _keep_outputs(sliced, spec, module, features)
        _keep_inputs(sliced, spec, spec.attention_out, query)
    return sliced


def _keep_outputs(tensors: dict[str, Tensor], spec: ArchitectureSpec, module: str, features: Tensor) -> None:
    tensors[f"{module}.weight"] = _take(tensors[f"{module}.weight"], 1 - spec.input_axis, features)
    if f"{module}.bias" in tensors:
        tensors[f"{module}.bias"] = _take(tensors[f"{module}.bias"], 0, features)


def _keep_inputs(tensors: dict[str, Tensor], spec: ArchitectureSpec, module: str, features: Tensor) -> None:
    tensors[f"{module}.weight"] = _take(tensors[f"{module}.weight"], spec.input_axis, features)


def _take(tensor: Tensor, axis: int, features: Tensor) -> Tensor:
    """``tensor.index_select(axis, features)`` by numpy, which is a few times faster at columns of 2-byte numbers."""
    integers = tensor.view({2: torch.int16, 4: torch.int32}[tensor.element_size()])
    return torch.from_numpy(integers.numpy().take(features.numpy(), axis)).view(tensor.dtype)
