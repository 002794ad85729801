"""The facts of every supported model family, by config.json's ``model_type``: one entry each, and no code of its own."""

from __future__ import annotations

from dataclasses import replace

from minigpts.errors import UserError
from minigpts.model.spec import ArchitectureSpec, Experts, Recurrence

# Llama and what is built like it: SmolLM2, Sheared-LLaMA, TinyLlama. Mistral differs in its attention window alone.
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

# Qwen 2 (and 2.5): biases on queries, keys and values. Qwen 3: norms on each head's queries and keys instead.
QWEN2 = replace(LLAMA, model_type="qwen2", mlp_bias_field=None, layer_lists=("layer_types",))
QWEN3 = replace(QWEN2, model_type="qwen3")

# Gemma 2 and 3 (text): scaled embeddings, a norm after the MLP, sliding windows in some of the layers.
GEMMA2 = replace(
    LLAMA,
    model_type="gemma2",
    mlp_bias_field=None,
    logit_softcap_field="final_logit_softcapping",
    layer_lists=("layer_types",),
)
GEMMA3_TEXT = replace(GEMMA2, model_type="gemma3_text")

# Phi 1, 1.5 and 2: attention and MLP side by side, biases everywhere, the lm_head's included. Phi 3 and 4: fused projections.
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

# StableLM 2: Llama's projections under LayerNorms. Its class derives head_dim from hidden_size, so heads are kept.
STABLELM = replace(LLAMA, model_type="stablelm", attention_in=(), mlp_bias_field=None)

# OPT: one up-projection, ReLU, biases everywhere, tied embeddings.
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

# GPT-2, whose linear layers are Conv1D, and GPT-NeoX (Pythia).
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
# GPT-J and CodeGen, whose layers give more than hidden states.
GPTJ = replace(
    GPT2,
    model_type="gptj",
    mlp_in=("mlp.fc_in",),
    mlp_out="mlp.fc_out",
    attention_out="attn.out_proj",
    returns_tuple=True,
    transposed=False,
    depth_switches=(),
)
CODEGEN = replace(GPTJ, model_type="codegen")
GPT_NEOX = ArchitectureSpec(
    model_type="gpt_neox",
    decoder="gpt_neox",
    layers="gpt_neox.layers",
    embedding="gpt_neox.embed_in",
    lm_head="lm_head",
    mlp_in=("mlp.dense_h_to_4h",),
    mlp_out="mlp.dense_4h_to_h",
    attention_out="attention.dense",
    older_lm_head="embed_out",
    older_rope_fields={"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
)

# Llama's modules around other attentions: rotary embeddings in some layers alone (SmolLM 3, Exaone 4), windows in some, clipped
# or normalized queries and keys, positions that scale the queries (Ministral 3). Arcee's MLP has no gate.
SMOLLM3 = replace(LLAMA, model_type="smollm3", layer_lists=("layer_types", "no_rope_layers"))
CWM = replace(LLAMA, model_type="cwm", layer_lists=("layer_types",))
SEED_OSS, IQUESTCODER = (replace(LLAMA, model_type=name) for name in ("seed_oss", "iquestcoder"))
OLMO, ERNIE4_5, HUNYUAN, INTERNLM3, MINISTRAL3, GEMMA = (
    replace(MISTRAL, model_type=name) for name in ("olmo", "ernie4_5", "hunyuan_v1_dense", "internlm3", "ministral3", "gemma")
)
MINISTRAL, EXAONE4 = (replace(QWEN2, model_type=name) for name in ("ministral", "exaone4"))
VAULTGEMMA = replace(GEMMA2, model_type="vaultgemma")
ARCEE = replace(LLAMA, model_type="arcee", mlp_in=("mlp.up_proj",))
NEMOTRON, JAIS2 = (replace(ARCEE, model_type=name) for name in ("nemotron", "jais2"))

# GLM 4's two generations: a fused gate and up, partial rotary embeddings; the second has norms behind both blocks.
GLM = replace(MISTRAL, model_type="glm", mlp_in=("mlp.gate_up_proj",), mlp_in_blocks=2)
GLM4 = replace(GLM, model_type="glm4")

# One up-projection, under other names. StarCoder 1 is GPT-2 of plain linear layers, its keys and values those of one head.
STARCODER2 = replace(MISTRAL, model_type="starcoder2", mlp_in=("mlp.c_fc",), mlp_out="mlp.c_proj")
NANOCHAT = replace(
    MISTRAL, model_type="nanochat", mlp_in=("mlp.fc1",), mlp_out="mlp.fc2", logit_softcap_field="final_logit_softcapping"
)
GPT_BIGCODE = replace(GPT2, model_type="gpt_bigcode", transposed=False, depth_switches=())
PERSIMMON = replace(
    MISTRAL,
    model_type="persimmon",
    mlp_in=("mlp.dense_h_to_4h",),
    mlp_out="mlp.dense_4h_to_h",
    attention_in=(),
    attention_out="self_attn.dense",
)

# Heads are kept: OLMo 2 and 3 normalize the queries of all heads at once, Helium's output projection is as wide as the hidden
# size, Doge masks by a vector with a number for each head.
OLMO2 = replace(MISTRAL, model_type="olmo2", attention_in=())
OLMO3 = replace(OLMO2, model_type="olmo3", layer_lists=("layer_types",))
HELIUM = replace(LLAMA, model_type="helium", attention_in=())
DOGE = replace(HELIUM, model_type="doge", assumes={"is_moe": False})

# Logits are scaled: Granite divides them, HyperCLOVA X and Cohere multiply. Heads are kept where each has a sink (Granite with
# windows) or the config derives head_dim from hidden_size (Cohere 2).
GRANITE = replace(LLAMA, model_type="granite", logit_scale_field="logits_scaling", logit_scale_divides=True)
GRANITE_SWA = replace(GRANITE, model_type="granite_swa", attention_in=(), layer_lists=("layer_types", "layer_rope_theta"))
HYPERCLOVAX = replace(LLAMA, model_type="hyperclovax", logit_scale_field="logits_scaling")
COHERE = replace(MISTRAL, model_type="cohere", head_switches=("use_qk_norm",), logit_scale_field="logit_scale")
COHERE2 = replace(COHERE, model_type="cohere2", attention_in=(), layer_lists=("layer_types",))

# Mixtures of experts. OLMoE's norms span all heads.
QWEN3_MOE = replace(
    QWEN3, model_type="qwen3_moe", mlp_in=(), mlp_out="", experts=Experts(), layer_lists=(), depth_switches=("mlp_only_layers",)
)
QWEN2_MOE = replace(QWEN3_MOE, model_type="qwen2_moe", layer_lists=("layer_types",))
OLMOE = replace(QWEN3_MOE, model_type="olmoe", attention_in=(), depth_switches=())
FLEX_OLMO = replace(OLMOE, model_type="flex_olmo")
MIXTRAL = replace(
    QWEN3_MOE,
    model_type="mixtral",
    depth_switches=(),
    experts=Experts(number_field="num_local_experts", stored=("w1", "w3", "w2"), older_names={"mlp.": "block_sparse_moe."}),
)
PHIMOE = replace(
    MIXTRAL,
    model_type="phimoe",
    experts=Experts(
        router=("mlp.router.weight",),
        number_field="num_local_experts",
        stored=("w1", "w3", "w2"),
        older_names={"mlp.router.": "block_sparse_moe.gate.", "mlp.": "block_sparse_moe."},
    ),
)
GLM4_MOE = replace(
    QWEN3_MOE,
    model_type="glm4_moe",
    depth_switches=("first_k_dense_replace",),
    experts=Experts(
        router=("mlp.gate.weight", "mlp.gate.e_score_correction_bias"),
        number_field="n_routed_experts",
        groups_field="n_group",
    ),
)
GPT_OSS = replace(
    OLMOE,
    model_type="gpt_oss",
    layer_lists=("layer_types",),
    experts=Experts(router=("mlp.router.weight", "mlp.router.bias"), number_field="num_local_experts", stored=None),
)

# Hybrids: linear attention, a convolution or Mamba in most layers, attention in the others. LFM2 and OLMo derive head_dim from
# hidden_size, Qwen 3.5 and LFM3 gate their heads. Of Granite 4 the dense ones, whose MLP is the experts' shared one.
QWEN3_5 = replace(
    QWEN3,
    model_type="qwen3_5_text",
    attention_in=(),
    recurrence=Recurrence("linear_attention", "linear_attn"),
    derives={"full_attention_interval": None},
    older_rope_fields={},
)
LFM2 = replace(
    QWEN3,
    model_type="lfm2",
    mlp_in=("feed_forward.w1", "feed_forward.w3"),
    mlp_out="feed_forward.w2",
    attention_in=(),
    attention_out="self_attn.out_proj",
    recurrence=Recurrence("conv", "conv"),
    derives={"block_auto_adjust_ff_dim": False, "full_attn_idxs": None},
)
LFM3 = replace(LFM2, model_type="lfm3", attention_out="self_attn.o_proj", derives={}, older_rope_fields={})
OLMO_HYBRID = replace(QWEN3_5, model_type="olmo_hybrid", derives={})
GRANITEMOEHYBRID = replace(
    GRANITE,
    model_type="granitemoehybrid",
    mlp_in=("shared_mlp.input_linear",),
    mlp_in_blocks=2,
    mlp_out="shared_mlp.output_linear",
    mlp_bias_field=None,
    attention_in=(),
    width_field="shared_intermediate_size",
    layer_lists=("layer_types",),
    recurrence=Recurrence("linear_attention", "mamba"),
    assumes={"num_local_experts": 0},
)

# Both: experts in the layers of a hybrid (Qwen 3.5's and 3.6's 35B-A3B).
QWEN3_NEXT = replace(QWEN2_MOE, model_type="qwen3_next", attention_in=(), recurrence=QWEN3_5.recurrence, derives=QWEN3_5.derives)
QWEN3_5_MOE = replace(QWEN3_NEXT, model_type="qwen3_5_moe_text", older_rope_fields={})

_DENSE = (
    *(LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA2, GEMMA3_TEXT, PHI, PHI3, STABLELM, OPT, GPT2, GPT_NEOX),
    *(SMOLLM3, CWM, SEED_OSS, INTERNLM3, IQUESTCODER, OLMO, ERNIE4_5, HUNYUAN, MINISTRAL3, GEMMA, MINISTRAL, EXAONE4, VAULTGEMMA),
    *(ARCEE, NEMOTRON, JAIS2, GLM, GLM4, STARCODER2, NANOCHAT, GPT_BIGCODE, PERSIMMON, OLMO2, OLMO3, HELIUM, DOGE),
    *(GRANITE, GRANITE_SWA, HYPERCLOVAX, COHERE, COHERE2, GPTJ, CODEGEN),
)
_MIXTURES = (QWEN3_MOE, QWEN2_MOE, OLMOE, FLEX_OLMO, MIXTRAL, PHIMOE, GLM4_MOE, GPT_OSS, QWEN3_NEXT, QWEN3_5_MOE)
_HYBRIDS = (QWEN3_5, LFM2, LFM3, OLMO_HYBRID, GRANITEMOEHYBRID)
_ALL = (*_DENSE, *_MIXTURES, *_HYBRIDS)
SPECS = {spec.model_type: spec for spec in _ALL}


# Multimodal checkpoints whose `text_config` is a family of the table: the modules beside the text model, which are left behind.
WRAPPERS = {
    **{name: ("vision_tower", "multi_modal_projector") for name in ("gemma3", "mistral3")},
    **{name: ("visual", "mtp") for name in ("qwen3_5", "qwen3_5_moe")},  # the latter predicts several tokens at once
}

# What is missing for families that people ask for, by what their layers have.
_MISSING = {
    "config.json places its kinds of layers by a rule, not in a list": ("bamba", "jamba"),
    "its layers have attention and Mamba side by side": ("falcon_h1",),
    "its layers share weights": ("zamba2",),
    "its layers have a mixer or an MLP, not both": ("nemotron_h",),
    "it has token embeddings of their own for the layers": ("gemma3n", "gemma3n_text"),
    "heads differ in size between its layers (per_layer_config)": ("gemma4", "gemma4_text"),
    "its class fixes the MLP width at 4 x hidden_size": ("bloom", "mpt"),
    "its linear layers are of a class of their own, which the profile passes over": ("falcon",),
    "a local layer counts its window in the row, not in the document": ("gpt_neo",),
    "it normalizes all MLP neurons at once": ("bitnet",),
    "what a layer computes depends on its number": ("diffllama", "minicpm3"),
}
UNSUPPORTED = {name: reason for reason, names in _MISSING.items() for name in names}


def spec_for(model_type: str) -> ArchitectureSpec:
    """The spec of a family. Raises UserError naming what is missing for it, or the supported ones and how to add one."""
    if model_type in UNSUPPORTED:
        raise UserError(f"model_type '{model_type}' is not supported: {UNSUPPORTED[model_type]}")
    if model_type not in SPECS:
        supported = ", ".join(sorted(SPECS))
        raise UserError(
            f"model_type '{model_type}' is not supported; supported: {supported}; docs/adding_an_architecture.md adds one"
        )
    return SPECS[model_type]
