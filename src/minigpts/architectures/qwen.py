"""Qwen 2 (and 2.5): Llama with biases on queries, keys and values. Qwen 3: norms on each head's queries and keys instead."""

from dataclasses import replace

from minigpts.architectures.llama import LLAMA

QWEN2 = replace(LLAMA, model_type="qwen2", mlp_bias_field=None, layer_lists=("layer_types",))
QWEN3 = replace(QWEN2, model_type="qwen3")
