"""GPT-2, whose linear layers are Conv1D, and GPT-NeoX (Pythia)."""

from minigpts.architectures.spec import ArchitectureSpec

GPT2 = ArchitectureSpec(
    model_type="gpt2",
    decoder="transformer",
    layers="transformer.h",
    embedding="transformer.wte",
    lm_head="lm_head",
    mlp_in=("mlp.c_fc",),
    mlp_out="mlp.c_proj",
    attention_out="attn.c_proj",
    transposed=True,
    width_field="n_inner",
    depth_switches=("scale_attn_by_inverse_layer_idx",),
)
GPT_NEOX = ArchitectureSpec(
    model_type="gpt_neox",
    decoder="gpt_neox",
    layers="gpt_neox.layers",
    embedding="gpt_neox.embed_in",
    lm_head="lm_head",
    mlp_in=("mlp.dense_h_to_4h",),
    mlp_out="mlp.dense_4h_to_h",
    attention_out="attention.dense",
)
