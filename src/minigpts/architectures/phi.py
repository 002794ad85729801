"""Phi 1, 1.5 and 2: attention and MLP side by side, biases everywhere, the lm_head's included. Phi 3 and 4: fused projections."""

from dataclasses import replace

from minigpts.architectures.llama import LLAMA

PHI = replace(
    LLAMA,
    model_type="phi",
    mlp_in=("mlp.fc1",),
    mlp_out="mlp.fc2",
    attention_out="self_attn.dense",
    mlp_bias_field=None,
    head_switches=("qk_layernorm",),
)
PHI3 = replace(
    LLAMA,
    model_type="phi3",
    mlp_in=("mlp.gate_up_proj",),
    mlp_in_blocks=2,
    attention_in=("self_attn.qkv_proj",),
    mlp_bias_field=None,
)
