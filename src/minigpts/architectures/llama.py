"""Llama and what is built like it: SmolLM2, Sheared-LLaMA, TinyLlama."""

from minigpts.architectures.spec import ArchitectureSpec

LLAMA = ArchitectureSpec(
    model_type="llama",
    decoder="model",
    layers="model.layers",
    embedding="model.embed_tokens",
    lm_head="lm_head",
    mlp_in=("mlp.gate_proj", "mlp.up_proj"),
    mlp_out="mlp.down_proj",
    attention_out="self_attn.o_proj",
    width_field="intermediate_size",
    mlp_bias_field="mlp_bias",
)
