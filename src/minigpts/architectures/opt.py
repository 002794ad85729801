"""OPT: one up-projection, ReLU, biases everywhere, tied embeddings."""

from minigpts.architectures.spec import ArchitectureSpec

OPT = ArchitectureSpec(
    model_type="opt",
    decoder="model.decoder",
    layers="model.decoder.layers",
    embedding="model.decoder.embed_tokens",
    lm_head="lm_head",
    mlp_in=("fc1",),
    mlp_out="fc2",
    attention_out="self_attn.out_proj",
    width_field="ffn_dim",
)
