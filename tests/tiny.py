"""Tiny models with odd sizes and a real byte-level BPE tokenizer, built in place."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from minigpts.model import checkpoint, uneven_widths
from minigpts.model.families import spec_for
from minigpts.model.transformers4 import tokenizer_settings

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
WORDS = [
    "heart",
    "lung",
    "liver",
    "kidney",
    "brain",
    "bone",
    "skin",
    "eye",
    "ear",
    "nerve",
    "vein",
    "cell",
    "blood",
    "muscle",
    "joint",
    "tooth",
    "hair",
    "nail",
]


def sentences(count: int, seed: int = 0) -> list[str]:
    """Distinct little texts about organs, without a random library's help: the same for everyone."""
    return [
        f"{WORDS[(i * 7 + seed) % 18].capitalize()} {i}: an abnormality of the {WORDS[i % 18]} near the {WORDS[(i * 5 + 3) % 18]}"
        f" and the {WORDS[(i * 11 + seed) % 18]}."
        for i in range(count)
    ]


ONE_FULL = ["sliding_attention", "full_attention", "sliding_attention"]
LLAMA3_ROPE = {
    **{"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "original_max_position_embeddings": 32,
}
# Queries are scaled by 1 + β ln(1 + ⌊position / the original context⌋).
MINISTRAL3_ROPE = {
    **{"rope_type": "yarn", "rope_theta": 10000.0, "factor": 16.0, "beta_fast": 32.0, "beta_slow": 1.0},
    **{"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 16},
}

GRANITE_SCALES = {"embedding_multiplier": 3.0, "residual_multiplier": 0.6, "attention_multiplier": 0.3, "logits_scaling": 2.5}

# A hybrid's layers: the one that attends has one of the others on either side.
ONE_ATTENDS = ["linear_attention", "full_attention", "linear_attention"]
MROPE = {
    **{"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    **{"mrope_interleaved": True, "mrope_section": [2, 2, 2]},
}
LINEAR_HEADS = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 6, "linear_value_head_dim": 7}

# One small config of every family, its sizes odd on purpose: nothing may depend on a power of two, and no two sizes are equal
# that could be mistaken for one another. Windows are shorter than the tests' sequences, softcaps low enough to bend the logits.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2, "head_dim": 10, "tie_word_embeddings": True},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 12},
    "qwen2": {"num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 14},  # not hidden_size / num_attention_heads
    "gemma2": {
        "num_key_value_heads": 2,
        "head_dim": 14,
        "query_pre_attn_scalar": 10,
        "sliding_window": 12,  # in layers 0 and 2
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "gemma3_text": {
        "num_key_value_heads": 2,
        "head_dim": 14,
        "query_pre_attn_scalar": 10,
        "sliding_window": 12,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    },
    "phi": {"partial_rotary_factor": 0.4},  # of head_dim 10: half of it, as in Phi-1.5, would be odd
    "phi3": {"num_key_value_heads": 2, "sliding_window": 12},
    "stablelm": {"num_key_value_heads": 2},
    "opt": {"word_embed_proj_dim": 40, "dropout": 0.0},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "gpt_neox": {},
    "gptj": {"rotary_dim": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "codegen": {"rotary_dim": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "smollm3": {"num_key_value_heads": 2, "no_rope_layers": [1, 0, 1], "use_sliding_window": True, "sliding_window": 12},
    "cwm": {"num_key_value_heads": 2, "head_dim": 14, "sliding_window": 12, "rope_parameters": LLAMA3_ROPE},
    "seed_oss": {"num_key_value_heads": 2, "head_dim": 14, "attention_dropout": 0.0, "residual_dropout": 0.0},
    "internlm3": {"num_key_value_heads": 2, "head_dim": 14},
    "iquestcoder": {"num_key_value_heads": 2, "head_dim": 14},
    "olmo": {"num_key_value_heads": 2, "clip_qkv": 0.5},
    "ernie4_5": {"num_key_value_heads": 2, "head_dim": 14, "tie_word_embeddings": False},
    "hunyuan_v1_dense": {"num_key_value_heads": 2, "head_dim": 14},
    "ministral3": {"num_key_value_heads": 2, "head_dim": 14, "rope_parameters": MINISTRAL3_ROPE},
    "gemma": {"num_key_value_heads": 2, "head_dim": 14},
    "ministral": {"num_key_value_heads": 2, "head_dim": 14, "sliding_window": 12, "layer_types": ONE_FULL},
    "exaone4": {"num_key_value_heads": 2, "sliding_window": 12, "layer_types": ONE_FULL},
    "vaultgemma": {
        "num_key_value_heads": 2,
        "head_dim": 14,
        "query_pre_attn_scalar": 10,
        "sliding_window": 12,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "arcee": {"num_key_value_heads": 2, "head_dim": 14},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 14},
    "jais2": {"num_key_value_heads": 2, "head_dim": 14},
    "glm": {"num_key_value_heads": 2, "head_dim": 12},  # half of it is rotated, in pairs
    "glm4": {"num_key_value_heads": 2, "head_dim": 12},
    "starcoder2": {"num_key_value_heads": 2, "sliding_window": 12},
    "nanochat": {"num_key_value_heads": 2, "final_logit_softcapping": 3.0},
    "gpt_bigcode": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "persimmon": {"partial_rotary_factor": 0.4},
    "olmo2": {"num_key_value_heads": 2},
    "olmo3": {"num_key_value_heads": 2, "sliding_window": 12, "layer_types": ONE_FULL},
    "helium": {"num_key_value_heads": 2, "head_dim": 10},
    "doge": {"num_key_value_heads": 2},
    "granite": {"num_key_value_heads": 2, **GRANITE_SCALES},
    "granite_swa": {
        "num_key_value_heads": 2,
        **GRANITE_SCALES,
        "sliding_window": 12,
        "layer_types": ONE_FULL,
        "layer_rope_theta": [10000.0, 0.0, 700.0],
    },
    "hyperclovax": {"num_key_value_heads": 2, "head_dim": 14, **GRANITE_SCALES, "logits_scaling": 0.4},
    "cohere": {"num_key_value_heads": 2, "logit_scale": 0.4},
    "cohere2": {"num_key_value_heads": 2, "logit_scale": 0.4, "sliding_window": 12, "layer_types": ONE_FULL},
    "qwen3_5_text": {
        "num_key_value_heads": 2,
        "head_dim": 24,
        **LINEAR_HEADS,
        "layer_types": ONE_ATTENDS,
        "rope_parameters": MROPE,
    },
    "lfm2": {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False},
    "lfm3": {
        "num_key_value_heads": 2,
        "head_dim": 12,
        "sliding_window": 12,
        "layer_types": ["sliding_attention", "full_attention", "conv"],
    },
    "olmo_hybrid": {"num_key_value_heads": 2, **LINEAR_HEADS, "layer_types": ONE_ATTENDS},
    "granitemoehybrid": {
        "num_key_value_heads": 2,
        **GRANITE_SCALES,
        "num_local_experts": 0,
        "layer_types": ONE_ATTENDS,
        "mamba_n_heads": 8,
        "mamba_d_state": 6,
        "mamba_chunk_size": 16,
    },
}

HYBRIDS = [family for family in FAMILIES if spec_for(family).recurrence is not None]

# The same of every mixture: nine experts, three a token. An expert's rows must be of 16 bytes each, hence the 24.
EXPERTS = {"num_experts": 9, "num_experts_per_tok": 3, "num_key_value_heads": 2, "moe_intermediate_size": 24}
MIXTURES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {**EXPERTS, "head_dim": 14, "norm_topk_prob": True},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 34},
    "olmoe": {**EXPERTS, "num_key_value_heads": 4, "intermediate_size": 24},
    "flex_olmo": {**EXPERTS, "num_key_value_heads": 4, "intermediate_size": 24},
    "mixtral": {**EXPERTS, "num_local_experts": 9, "intermediate_size": 24, "sliding_window": 12},
    "phimoe": {**EXPERTS, "num_local_experts": 9, "num_experts_per_tok": 2, "intermediate_size": 24, "sliding_window": 12},
    "glm4_moe": {**EXPERTS, "n_routed_experts": 9, "first_k_dense_replace": 0, "n_shared_experts": 2},
    "qwen3_next": {**EXPERTS, "shared_expert_intermediate_size": 34, "head_dim": 16, **LINEAR_HEADS, "layer_types": ONE_ATTENDS},
    "qwen3_5_moe_text": {
        **EXPERTS,
        "shared_expert_intermediate_size": 34,
        "head_dim": 24,
        **LINEAR_HEADS,
        "layer_types": ONE_ATTENDS,
        "rope_parameters": MROPE,
    },
    "gpt_oss": {**EXPERTS, "num_local_experts": 9, "intermediate_size": 24, "head_dim": 10, "sliding_window": 12},
}
MIXTURE_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in MIXTURES},
    "qwen3_moe tied, a layer dense": ("qwen3_moe", {"mlp_only_layers": [1], "tie_word_embeddings": True}),
    "qwen2_moe tied, gates summing to one": ("qwen2_moe", {"norm_topk_prob": True, "tie_word_embeddings": True}),
    "olmoe, gates summing to one": ("olmoe", {"norm_topk_prob": True}),
    "phimoe untied": ("phimoe", {"tie_word_embeddings": False, "lm_head_bias": True}),
    "glm4_moe in groups, the first layer dense": (
        "glm4_moe",
        {"n_routed_experts": 12, "n_group": 3, "topk_group": 2, "first_k_dense_replace": 1},
    ),
}

# Rows of the embedding beyond the tokenizer's tokens, as the families pad them.
PADDING_ROWS = {"phi": 21, "gpt_neox": 5}

# What else a family's checkpoints differ in: (family, changes to the config above).
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in FAMILIES},
    "llama untied, biased": ("llama", {"tie_word_embeddings": False, "mlp_bias": True, "attention_bias": True}),
    "llama of equal heads": ("llama", {"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 8}),
    "mistral tied, without a window": ("mistral", {"tie_word_embeddings": True, "sliding_window": None}),
    "qwen2 tied": ("qwen2", {"tie_word_embeddings": True, "use_sliding_window": False}),
    "qwen3 tied, biased, windowed": (
        "qwen3",
        {
            "tie_word_embeddings": True,
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 12,
            "max_window_layers": 2,
        },
    ),
    "gemma2 untied": ("gemma2", {"tie_word_embeddings": False}),
    "gemma3_text softcapped": ("gemma3_text", {"final_logit_softcapping": 3.0, "tie_word_embeddings": False}),
    "phi tied, grouped": ("phi", {"tie_word_embeddings": True, "num_key_value_heads": 2}),
    "phi3 tied": ("phi3", {"tie_word_embeddings": True, "sliding_window": None}),
    "stablelm in parallel": (
        "stablelm",
        {"use_parallel_residual": True, "use_qkv_bias": True, "qk_layernorm": True, "tie_word_embeddings": True},
    ),
    "opt 350m": ("opt", {"word_embed_proj_dim": 24, "do_layer_norm_before": False}),  # norms behind, projections around
    "opt untied, unbiased": ("opt", {"tie_word_embeddings": False, "enable_bias": False}),
    "gpt2 untied": ("gpt2", {"tie_word_embeddings": False}),
    "gpt_neox tied, in sequence": (
        "gpt_neox",
        {"tie_word_embeddings": True, "use_parallel_residual": False, "attention_bias": False},
    ),
    "smollm3 untied, biased": (
        "smollm3",
        {
            "tie_word_embeddings": False,
            "attention_bias": True,
            "mlp_bias": True,
            "use_sliding_window": False,
            "no_rope_layers": None,
        },
    ),
    "seed_oss tied, biased": ("seed_oss", {"tie_word_embeddings": True, "attention_out_bias": True, "mlp_bias": True}),
    "olmo tied, biased": ("olmo", {"tie_word_embeddings": True, "attention_bias": True, "clip_qkv": None}),
    "ernie4_5 tied, biased": ("ernie4_5", {"tie_word_embeddings": True, "use_bias": True}),
    "exaone4 tied, without a window": (
        "exaone4",
        {"tie_word_embeddings": True, "sliding_window": None, "layer_types": ["full_attention"] * 3},
    ),
    "gemma untied": ("gemma", {"tie_word_embeddings": False}),
    "arcee tied, biased": ("arcee", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "jais2 unbiased": ("jais2", {"attention_bias": False, "mlp_bias": False}),
    "glm unbiased": ("glm", {"tie_word_embeddings": True, "attention_bias": False}),
    "starcoder2 untied, unbiased": ("starcoder2", {"tie_word_embeddings": False, "use_bias": False, "sliding_window": None}),
    "gpt_bigcode untied, of equal heads": ("gpt_bigcode", {"tie_word_embeddings": False, "multi_query": False, "n_head": 4}),
    "granite tied, biased": ("granite", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "granite_swa untied": ("granite_swa", {"tie_word_embeddings": False}),
    "hyperclovax tied, without norms behind": ("hyperclovax", {"tie_word_embeddings": True, "use_post_norm": False}),
    "cohere untied, biased": ("cohere", {"tie_word_embeddings": False, "attention_bias": True}),
    "cohere of normalized heads": ("cohere", {"use_qk_norm": True}),
    "qwen3_5_text tied, biased": (
        "qwen3_5_text",
        {"tie_word_embeddings": True, "attention_bias": True, "full_attention_interval": 2, "layer_types": None},
    ),
    "lfm2 untied, biased, of a derived width": (
        "lfm2",
        {
            "tie_word_embeddings": False,
            "conv_bias": True,
            "intermediate_size": 115,
            "block_auto_adjust_ff_dim": True,
            "block_multiple_of": 7,
            "layer_types": None,
            "full_attn_idxs": [1],
        },
    ),
    "lfm3 untied, ungated, without norms behind": (
        "lfm3",
        {"tie_word_embeddings": False, "conv_bias": True, "use_sandwich_norm": False, "use_attention_gate": False},
    ),
    "olmo_hybrid tied, of equal heads": ("olmo_hybrid", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "granitemoehybrid tied, rotary": (
        "granitemoehybrid",
        {"tie_word_embeddings": True, "position_embedding_type": "rope", "mamba_n_groups": 1, "mamba_conv_bias": False},
    ),
    "doge tied, biased, windowed": (
        "doge",
        {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "sliding_window": 12},
    ),
}

# The variants of one family of each spec: rooms that know a family by its spec alone treat those of an equal one alike.
LAYOUTS = {
    name: variant
    for families in [{repr(replace(spec_for(family), model_type="")): family for family in reversed(FAMILIES)}.values()]
    for name, variant in VARIANTS.items()
    if variant[0] in families
}


def config(family: str, vocab_size: int, **changes: Any) -> PreTrainedConfig:
    """Three odd-sized layers of a family of :data:`FAMILIES` or :data:`MIXTURES`, with ``changes``."""
    values = {
        "vocab_size": vocab_size,
        "hidden_size": 40,
        spec_for(family).width_field: 77,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        **(FAMILIES | MIXTURES)[family],
        **changes,
    }
    return AutoConfig.for_model(family, **values)


def llama_config(vocab_size: int, **changes: Any) -> PreTrainedConfig:
    """Grouped-query attention, tied embeddings."""
    return config("llama", vocab_size, **changes)


def opt_config(vocab_size: int, **changes: Any) -> PreTrainedConfig:
    """One up-projection, ReLU, biases."""
    return config("opt", vocab_size, **changes)


def write_tokenizer(directory: Path, vocab_size: int = 480) -> int:
    """Train a byte-level BPE on :func:`sentences` and write it with its config and chat template; gives its size."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*sentences(300), *(f"{word} user assistant system" for word in WORDS)], trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    roles = {"bos_token": SPECIAL[1], "eos_token": SPECIAL[2], "pad_token": SPECIAL[2], "unk_token": SPECIAL[0]}
    settings = tokenizer_settings(256, roles)
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return tokenizer.get_vocab_size()


def write_checkpoint(
    directory: Path, family: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any
) -> Path:
    """A whole checkpoint folder with seeded random weights, large enough that every logit depends on every part."""
    scratch = directory.with_name(f"{directory.name}-tokenizer")
    scratch.mkdir(parents=True)
    vocab_size = write_tokenizer(scratch) + PADDING_ROWS.get(family, 0)
    settings = config(family, changes.pop("vocab_size", vocab_size), **changes)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    if getattr(settings, "intermediate_sizes", None) is not None:
        uneven_widths.resize_mlps(model, spec_for(family), settings.intermediate_sizes)
    settings.architectures, settings.dtype = [type(model).__name__], dtype
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0 if parameter.dim() > 1 else 0.5, 0.15)
    (scratch / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}))
    with checkpoint.saving(directory, settings, checkpoint.weights_of(model, dtype).items(), companions=scratch):
        pass
    return directory
