"""What the project needs to know of a model family, as data: module names and the config fields that hold widths."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ArchitectureSpec:
    """Names in one family of decoder-only models, as stock transformers spells them.

    Module paths below a layer are relative to it. Weights of linear layers are (out_features, in_features).
    """

    model_type: str  # config.json's `model_type`
    decoder: str  # the module that maps token ids to the last hidden state, without the lm_head
    layers: str  # the ModuleList of decoder layers
    embedding: str  # the token embedding; weight (vocab_size, hidden_size)
    lm_head: str  # the output projection; weight (vocab_size, hidden_size), tied to the embedding or not
    mlp_in: tuple[str, ...]  # linear layers whose *rows* are the MLP neurons: gate and up, or fc1 alone
    mlp_out: str  # the linear layer whose *columns* are the MLP neurons; its input is the activation that is profiled
    attention_out: str  # the linear layer that reads the concatenated heads
    width_field: str  # config field of the MLP width
    mlp_bias_field: str | None = None  # config switch that gives every MLP projection a bias, where the family has one
    num_heads_field: str = "num_attention_heads"  # config field of the number of query heads

    def layer(self, index: int, module: str) -> str:
        """Full path of a module of one layer: ``layer(3, "mlp.down_proj")`` is ``model.layers.3.mlp.down_proj``."""
        return f"{self.layers}.{index}.{module}"
