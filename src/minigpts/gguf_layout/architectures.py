"""What llama.cpp makes of each model family, as data: its architecture, how rows lie in it, and what it can't hold.

Facts are llama.cpp's own (``src/models/*.cpp``, ``convert_hf_to_gguf.py``); names of tensors are those of the ``gguf``
package. Every entry is proved in llama.cpp itself by ``tests/unit/exporting``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from minigpts.errors import UserError
from minigpts.gguf_layout.architecture import GELU, LAYER_EPSILON, RMS_EPSILON, SILU, GgufArchitecture, obstacle

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

LLAMA = GgufArchitecture(
    "llama",
    activation=("hidden_act", SILU),
    interleaved=("self_attn.q_proj", "self_attn.k_proj"),
    rope_types=("linear", "yarn", "llama3"),
)
DECI = replace(LLAMA, name="deci")  # Llama with a width for each layer

QWEN2 = GgufArchitecture("qwen2", activation=("hidden_act", SILU))
QWEN3 = replace(QWEN2, name="qwen3", expected={"attention_bias": (False,)})

# Mixtures of experts: whether the gates of the chosen experts sum to one is llama.cpp's own for each, and each layer is one.
MIXTRAL = replace(LLAMA, keys={"expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok"})
QWEN3_MOE = replace(
    QWEN3,
    name="qwen3moe",
    keys={
        "expert_count": "num_experts",
        "expert_used_count": "num_experts_per_tok",
        "expert_feed_forward_length": "moe_intermediate_size",
    },
    expected={**QWEN3.expected, "norm_topk_prob": (True,), "mlp_only_layers": ([],), "decoder_sparse_step": (1,)},
)
QWEN2_MOE = replace(
    QWEN3_MOE,
    name="qwen2moe",
    keys={**QWEN3_MOE.keys, "expert_shared_feed_forward_length": "shared_expert_intermediate_size"},
    expected={"norm_topk_prob": (False,), "mlp_only_layers": ([],), "decoder_sparse_step": (1,)},
)
OLMOE = replace(
    QWEN2,
    name="olmoe",
    keys={"expert_count": "num_experts", "expert_used_count": "num_experts_per_tok"},
    expected={"norm_topk_prob": (False,), "clip_qkv": (None,)},
)

GEMMA2 = GgufArchitecture(
    "gemma2",
    activation=("hidden_activation", GELU),
    norms_plus_one=True,
    separate_head=False,
    rope_types=(),
    periodic_windows=True,
    score_scale="query_pre_attn_scalar",
    scale_by_width_at=46,
    keys={"attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping"},
    expected={"attention_bias": (False,), "use_bidirectional_attention": (False, None)},
)
GEMMA3 = replace(
    GEMMA2,
    name="gemma3",
    separate_head=True,
    rope_types=("linear",),
    scale_by_width_at=62,
    keys={"final_logit_softcapping": "final_logit_softcapping"},
    expected={**GEMMA2.expected, "attn_logit_softcapping": (None,)},
)

PHI2 = GgufArchitecture(
    "phi2",
    activation=("hidden_act", GELU),
    epsilon=("layer_norm_eps", LAYER_EPSILON),
    head_required=True,
    heads_fill_width=True,
    expected={"qk_layernorm": (False,)},
)
PHI3 = GgufArchitecture("phi3", activation=("hidden_act", SILU), heads_fill_width=True, rope_types=("longrope",))
STABLELM = GgufArchitecture(
    "stablelm",
    activation=("hidden_act", SILU),
    epsilon=("layer_norm_eps", LAYER_EPSILON),
    head_required=True,
    heads_fill_width=True,
    keys={"use_parallel_residual": "use_parallel_residual"},
)
GPT2 = GgufArchitecture(
    "gpt2",
    activation=("activation_function", GELU),
    epsilon=("layer_norm_epsilon", LAYER_EPSILON),
    heads_fill_width=True,
    rotary=False,
    expected={"scale_attn_by_inverse_layer_idx": (False,), "scale_attn_weights": (True,), "add_cross_attention": (False,)},
)
GPT_NEOX = GgufArchitecture(
    "gptneox",
    activation=("hidden_act", GELU),
    epsilon=("layer_norm_eps", LAYER_EPSILON),
    fused_by_head="attention.query_key_value",
    head_required=True,
    heads_fill_width=True,
    keys={"use_parallel_residual": "use_parallel_residual"},
    expected={"attention_bias": (True,)},
)

# Llama under other activations or with other norms, NoPE or scales.
UNBIASED = {"attention_bias": (False,), "mlp_bias": (False,)}
SMOLLM3 = replace(LLAMA, name="smollm3", rope_types=("linear", "yarn"), unrotated_every=4, expected=UNBIASED)
ARCEE = replace(LLAMA, name="arcee", activation=("hidden_act", ("relu2",)), rope_types=("linear", "yarn"), expected=UNBIASED)
OLMO = replace(
    LLAMA,
    name="olmo",
    epsilon=(1e-5, LAYER_EPSILON),
    rope_types=("linear", "yarn"),
    keys={"attention.clamp_kqv": "clip_qkv"},
    expected={"attention_bias": (False,)},
)
MISTRAL3 = replace(LLAMA, name="mistral3", rope_types=("linear", "yarn"), temperature=True)
GRANITE = replace(
    LLAMA,
    name="granite",
    rope_types=("linear", "yarn"),
    keys={
        "logit_scale": "logits_scaling",
        "embedding_scale": "embedding_multiplier",
        "residual_scale": "residual_multiplier",
        "attention.scale": "attention_multiplier",
    },
)

OLMO2 = replace(QWEN2, name="olmo2")
QWEN3_5 = replace(
    QWEN3,
    name="qwen35",
    norms_plus_one=True,
    rope_types=(),
    attention_every=True,
    sections=True,
    keys={
        "ssm.conv_kernel": "linear_conv_kernel_dim",
        "ssm.state_size": "linear_key_head_dim",
        "ssm.group_count": "linear_num_key_heads",
        "ssm.time_step_rank": "linear_num_value_heads",
    },
    products={"ssm.inner_size": ("linear_num_value_heads", "linear_value_head_dim")},
    # Where a key head has several value heads llama.cpp takes them, and the columns of what reads them, in another order.
    alike=(("linear_num_key_heads", "linear_num_value_heads"), ("linear_key_head_dim", "linear_value_head_dim")),
)
LFM2 = replace(
    QWEN2,
    name="lfm2",
    epsilon=("norm_eps", RMS_EPSILON),
    keys={"shortconv.l_cache": "conv_L_cache"},
    expected={"conv_bias": (False,)},
)
EXAONE4 = replace(QWEN2, name="exaone4", expected={"sliding_window": (None,)})  # its windows are fixed by the number of layers
SEED_OSS = replace(QWEN2, name="seed_oss", expected={"attention_out_bias": (False,), "mlp_bias": (False,)})
HUNYUAN = replace(QWEN2, name="hunyuan-dense")
# Their rotary embedding turns pairs of neighbours, in transformers as in llama.cpp.
CHATGLM = replace(QWEN2, name="chatglm", heads_fill_width=True)
GLM4 = replace(QWEN2, name="glm4")
ERNIE4_5 = replace(QWEN2, name="ernie4_5", expected={"use_bias": (False,)})
COMMAND_R = GgufArchitecture(
    "command-r",
    activation=("hidden_act", SILU),
    epsilon=("layer_norm_eps", LAYER_EPSILON),
    separate_head=False,
    keys={"logit_scale": "logit_scale"},
    expected={"attention_bias": (False,), "use_qk_norm": (False,)},
)
COHERE2 = replace(COMMAND_R, name="cohere2", periodic_windows=True, windows_alone_rotate=True)

GEMMA = replace(
    GEMMA2, name="gemma", activation=("hidden_act", GELU), periodic_windows=False, score_scale=None, scale_by_width_at=None, keys={}
)
NEMOTRON = GgufArchitecture(
    "nemotron",
    activation=("hidden_act", ("relu2",)),
    epsilon=("norm_eps", LAYER_EPSILON),
    norms_plus_one=True,
    heads_fill_width=True,
    expected=UNBIASED,
)
JAIS2 = GgufArchitecture(
    "jais2",
    activation=("hidden_act", ("relu2",)),
    epsilon=("layer_norm_eps", LAYER_EPSILON),
    expected={"attention_bias": (True,), "mlp_bias": (True,)},
)
STARCODER = replace(GPT2, name="starcoder", expected={"multi_query": (True,), "scale_attn_weights": (True,)})
STARCODER2 = GgufArchitecture(
    "starcoder2", activation=("hidden_act", GELU), epsilon=("norm_epsilon", LAYER_EPSILON), expected={"use_bias": (True,)}
)

ARCHITECTURES = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "phi": PHI2,
    "phi3": PHI3,
    "stablelm": STABLELM,
    "gpt2": GPT2,
    "gpt_neox": GPT_NEOX,
    "smollm3": SMOLLM3,
    **dict.fromkeys(("internlm3", "iquestcoder", "ministral", "cwm"), LLAMA),
    "ministral3": MISTRAL3,
    "seed_oss": SEED_OSS,
    "arcee": ARCEE,
    "nemotron": NEMOTRON,
    "jais2": JAIS2,
    "olmo": OLMO,
    **dict.fromkeys(("olmo2", "olmo3"), OLMO2),
    "ernie4_5": ERNIE4_5,
    "hunyuan_v1_dense": HUNYUAN,
    "lfm2": LFM2,
    "qwen3_5_text": QWEN3_5,
    "exaone4": EXAONE4,
    "gemma": GEMMA,
    "glm": CHATGLM,
    "glm4": GLM4,
    "gpt_bigcode": STARCODER,
    "starcoder2": STARCODER2,
    "granite": GRANITE,
    "cohere": COMMAND_R,
    "cohere2": COHERE2,
    "mixtral": MIXTRAL,
    "qwen3_moe": QWEN3_MOE,
    "qwen2_moe": QWEN2_MOE,
    "olmoe": OLMOE,
}
# Families that have a second architecture for MLP widths that differ between layers.
UNEVEN = {"llama": DECI, "mistral": DECI, "qwen2": DECI}


def architecture_of(config: PreTrainedConfig) -> GgufArchitecture:
    """The architecture that holds a model with this config, all of it.

    Raises UserError, in one line, for a family without one, for uneven MLP widths where it has none, and for any
    setting under which its model would compute something else.
    """
    family = config.model_type
    if family not in ARCHITECTURES:
        raise UserError(f"export: no architecture of llama.cpp is declared for {family}, but for {', '.join(ARCHITECTURES)}")
    architecture = ARCHITECTURES[family]
    if getattr(config, "intermediate_sizes", None) is not None:
        if family not in UNEVEN:
            raise UserError(
                f"export: llama.cpp's {architecture.name} has one MLP width for all layers; set prune_neurons.allocation: uniform"
            )
        architecture = UNEVEN[family]
    reason = obstacle(architecture, config)
    if reason is not None:
        raise UserError(f"export: llama.cpp's {architecture.name} {reason}; set export.formats: []")
    return architecture
