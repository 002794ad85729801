"""Llama and what is built like it: SmolLM2, Sheared-LLaMA, TinyLlama; Mistral differs in its window alone."""

from dataclasses import replace

from minigpts.architectures.spec import ArchitectureSpec

LLAMA = ArchitectureSpec(
    model_type="llama",
    decoder="model",
    layers="model.layers",
    embedding="model.embed_tokens",
    lm_head="lm_head",
    mlp_in=("mlp.gate_proj", "mlp.up_proj"),
    mlp_out="mlp.down_proj",
    attention_in=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention_out="self_attn.o_proj",
    mlp_bias_field="mlp_bias",
)
MISTRAL = replace(LLAMA, model_type="mistral", mlp_bias_field=None)
