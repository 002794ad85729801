"""What the project needs to know of a model family, as data: module names, how units lie in the weights, config fields."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Experts:
    """Where a mixture keeps its experts. Names are relative to a layer; a layer without them is a dense one.

    The module is called with (hidden states, indices, gates), and its parameters have the experts as their first axis: so
    transformers 5 does it in every family, whatever the weights file looks like.
    """

    module: str = "mlp.experts"
    router: tuple[str, ...] = ("mlp.gate.weight",)  # tensors outside the module that have an axis of experts
    number_field: str = "num_experts"  # config field
    top_k_field: str = "num_experts_per_tok"  # config field of how many a token is routed to
    groups_field: str | None = None  # config field of the number of groups that a token chooses among first
    # The linear layers of one expert (gate, up, down), where the weights file has a module for each; None: as in the model.
    stored: tuple[str, str, str] | None = ("gate_proj", "up_proj", "down_proj")
    # What the weights file calls a tensor, or a module, by the beginning of its name in the model.
    older_names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recurrence:
    """The layers of a hybrid that carry a state along the text instead of attending to it: linear attention, convolution, Mamba.

    No mask reaches them, so whatever is to be computed by itself needs a row of its own, padded on the right.
    """

    kind: str  # what config's `layer_types` calls them
    module: str  # what stands in attention's place there


@dataclass(frozen=True)
class ArchitectureSpec:
    """Names in one family of decoder-only models, as stock transformers spells them.

    Module paths below a layer are relative to it. A fact that can be read off a checkpoint (sizes, biases, tied weights) is
    no part of a spec.
    """

    model_type: str  # config.json's `model_type`
    decoder: str  # the module that maps token ids to the last hidden state, without the lm_head
    layers: str  # the ModuleList of decoder layers
    embedding: str  # the token embedding; weight (vocab_size, hidden_size)
    lm_head: str  # the output projection; weight (vocab_size, hidden_size), tied to the embedding or not
    mlp_in: tuple[str, ...]  # linear layers whose *outputs* are the MLP neurons: gate and up, a fused pair, or one alone
    mlp_out: str  # the linear layer whose *inputs* are the MLP neurons: the activation that is profiled; "": experts instead
    attention_out: str  # the linear layer that reads the concatenated heads
    # Linear layers that make queries, keys and values: three, or one whose outputs are [query | key | value]. Empty where the
    # stock class derives head_dim from hidden_size, so that no head can go.
    attention_in: tuple[str, ...] = ()
    experts: Experts | None = None  # of a mixture
    recurrence: Recurrence | None = None  # of a hybrid, some of whose layers have no attention
    mlp_in_blocks: int = 1  # 2: one fused layer, whose outputs are [gate | up]
    returns_tuple: bool = False  # a layer gives (hidden states, attention weights)
    transposed: bool = False  # linear layers are Conv1D: weights are (in_features, out_features), not (out, in)
    width_field: str = "intermediate_size"  # config field of the MLP width
    mlp_bias_field: str | None = None  # config switch that gives every MLP projection a bias, where the family has one
    logit_softcap_field: str | None = None  # config field of c in logits ← c·tanh(logits / c), where the family caps them
    logit_scale_field: str | None = None  # config field of s in logits ← s·logits, before any cap, where the family scales them
    logit_scale_divides: bool = False  # … or of s in logits ← logits / s
    layer_lists: tuple[str, ...] = ()  # config fields that hold a list with one entry a layer
    head_switches: tuple[str, ...] = ()  # config switches under which no head can go after all
    depth_switches: tuple[str, ...] = ()  # config switches under which what a layer computes depends on its number
    assumes: Mapping[str, Any] = field(default_factory=dict)  # config field: the one value under which all this is so
    # Config fields of which the class would derive the width or the kinds of layers, and the value under which it doesn't.
    derives: Mapping[str, Any] = field(default_factory=dict)
    # What transformers 4 calls the lm_head, and hence the file: transformers 5 renames it when it loads.
    older_lm_head: str | None = None
    # What transformers 4 calls a key of `rope_parameters` in config.json itself; empty for a family that it doesn't know.
    older_rope_fields: Mapping[str, str] = field(
        default_factory=lambda: {"rope_theta": "rope_theta", "partial_rotary_factor": "partial_rotary_factor"}
    )

    def layer(self, index: int, module: str) -> str:
        """Full path of a module of one layer: ``layer(3, "mlp.down_proj")`` is ``model.layers.3.mlp.down_proj``."""
        return f"{self.layers}.{index}.{module}"

    def logit_softcap(self, config: PreTrainedConfig) -> float | None:
        """The c of a config whose logits are capped; None where they are not."""
        return None if self.logit_softcap_field is None else getattr(config, self.logit_softcap_field)

    def logit_scale(self, config: PreTrainedConfig) -> float:
        """What the lm_head's outputs are multiplied by; 1 where the family doesn't scale them."""
        scale = 1.0 if self.logit_scale_field is None else float(getattr(config, self.logit_scale_field))
        return 1 / scale if self.logit_scale_divides else scale

    def is_transposed(self, name: str, shape: Sequence[int]) -> bool:
        """Whether a tensor of the weights file is a linear layer's weight that lies as (in_features, out_features)."""
        return self.transposed and len(shape) == 2 and name.startswith(f"{self.layers}.")

    @property
    def mixers(self) -> tuple[str, ...]:
        """The modules of a layer that mix tokens: attention, and what a hybrid's other layers have in its place."""
        attention = self.attention_out.rpartition(".")[0]
        return (attention,) if self.recurrence is None else (attention, self.recurrence.module)

    def attends(self, names: Container[str], index: int) -> bool:
        """Whether layer ``index`` of the weights file with tensors ``names`` has attention."""
        return self.recurrence is None or f"{self.layer(index, self.attention_out)}.weight" in names

    @property
    def stored_lm_head(self) -> str:
        """The lm_head's name in the weights file; every other module has its own there."""
        return self.older_lm_head or self.lm_head

    @property
    def input_axis(self) -> int:
        """The axis of a linear layer's weight that its input features lie along; the other is the output's."""
        return 0 if self.transposed else 1
