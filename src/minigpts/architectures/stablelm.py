"""StableLM 2: Llama's projections under LayerNorms; its class derives head_dim from hidden_size, so heads stay."""

from dataclasses import replace

from minigpts.architectures.llama import LLAMA

STABLELM = replace(LLAMA, model_type="stablelm", attention_in=(), mlp_bias_field=None)
