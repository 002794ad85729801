"""The metadata of a GGUF file that say what the model computes: sizes, norms, rotary embedding, windows and softcaps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from minigpts.errors import UserError
from minigpts.gguf_layout.architecture import GgufArchitecture, head_dim, kv_heads
from minigpts.model.families import spec_for
from minigpts.model.weights import Shapes

if TYPE_CHECKING:
    import numpy
    from transformers import PreTrainedConfig

Fields = dict[str, "bool | int | float | str | Sequence[Any]"]  # of a file's metadata; a Python float becomes a float32
SLIDING = "sliding_attention"  # config's name of a layer with a window
SECTIONS = [11, 11, 10]  # Qwen 3.5's class takes these for a config that has none
YARN_BOUNDS = {"beta_fast": 32, "beta_slow": 1}  # the only ones that llama.cpp computes as transformers does


def hyperparameters(architecture: GgufArchitecture, config: PreTrainedConfig, shapes: Shapes) -> Fields:
    """Every key below the architecture's name, with the name. Raises UserError for a rotary scaling or windows it can't hold."""
    epsilon, epsilon_key = architecture.epsilon
    fields: Fields = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": _widths(config, shapes),
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": _kv_heads(architecture, config),
        "attention.key_length": head_dim(config),
        "attention.value_length": head_dim(config),
        epsilon_key: float(getattr(config, epsilon) if isinstance(epsilon, str) else epsilon),
        **_rope(architecture, config),
        **_windows(architecture, config),
        **_interval(architecture, config),
    }
    for key, (one, other) in architecture.products.items():
        fields[key] = getattr(config, one) * getattr(config, other)
    for key, name in architecture.keys.items():
        if getattr(config, name, None) is not None:
            fields[key] = getattr(config, name)
    return {f"{architecture.name}.{key}": value for key, value in fields.items()}


def _kv_heads(architecture: GgufArchitecture, config: PreTrainedConfig) -> int | list[int]:
    """Key/value heads, or those of each layer where nothing else tells llama.cpp which have attention."""
    recurrence = spec_for(config.model_type).recurrence
    if recurrence is None or architecture.attention_every:
        return kv_heads(config)
    return [0 if kind == recurrence.kind else kv_heads(config) for kind in config.layer_types]


def _widths(config: PreTrainedConfig, shapes: Shapes) -> int | list[int]:
    """The MLP width, or one for each layer where the config lists them."""
    spec = spec_for(config.model_type)
    if getattr(config, "intermediate_sizes", None) is not None:
        return list(config.intermediate_sizes)
    if not spec.mlp_out:  # of an expert, where the family has no dense layer of another width
        return int(config.intermediate_size)
    return shapes[f"{spec.layer(0, spec.mlp_out)}.weight"][spec.input_axis]


def _parameters(config: PreTrainedConfig) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Rotary settings of the layers without and of those with a window; most families have one for both."""
    rope = config.rope_parameters
    return (rope["full_attention"], rope[SLIDING]) if "full_attention" in rope else (rope, rope)


def rotary_size(config: PreTrainedConfig) -> int:
    """Features of a head that are rotated."""
    return int(head_dim(config) * _parameters(config)[0].get("partial_rotary_factor", 1.0))


def _rope(architecture: GgufArchitecture, config: PreTrainedConfig) -> Fields:
    if not architecture.rotary:
        return {}
    rope, local = _parameters(config)
    kind = rope.get("rope_type", "default")
    if kind not in ("default", *architecture.rope_types) or local.get("rope_type", "default") not in ("default", kind):
        raise UserError(f"export: llama.cpp's {architecture.name} has no rotary scaling '{kind}'; set export.formats: []")
    fields: Fields = {"rope.dimension_count": rotary_size(config), "rope.freq_base": float(rope["rope_theta"])}
    if architecture.sections:  # of height and width; text turns all alike
        fields["rope.dimension_sections"] = [*rope.get("mrope_section", SECTIONS), 0]
    if local != rope and not architecture.periodic_windows:
        raise UserError(f"export: llama.cpp's {architecture.name} has one rotary embedding for all layers; set export.formats: []")
    if local is not rope:
        fields["rope.freq_base_swa"] = float(local["rope_theta"])
    if architecture.temperature and rope.get("llama_4_scaling_beta"):
        fields["attention.temperature_scale"] = float(rope["llama_4_scaling_beta"])
        fields["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
    return {**fields, **{f"rope.scaling.{key}": value for key, value in _scaling(architecture, kind, rope, config).items()}}


def _scaling(architecture: GgufArchitecture, kind: str, rope: Mapping[str, Any], config: PreTrainedConfig) -> Fields:
    """What comes below ``rope.scaling``; Llama 3's kind is in its tensor of factors alone."""
    if kind == "linear":
        return {"type": "linear", "factor": float(rope["factor"])}
    if kind == "yarn":
        original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        fields: Fields = {"type": "yarn", "factor": float(rope["factor"]), "original_context_length": original}
        unlike = [name for name in ("attention_factor", "mscale", "mscale_all_dim") if rope.get(name)]
        unlike += [name for name, usual in YARN_BOUNDS.items() if rope.get(name) not in (None, usual)]
        if architecture.temperature and unlike == ["mscale", "mscale_all_dim"] and rope["mscale"] == rope["mscale_all_dim"]:
            return {**fields, "yarn_log_multiplier": float(rope["mscale"])}
        if unlike or rope.get("truncate") is False:
            raise UserError(f"export: yarn's {', '.join(unlike or ['truncate'])} can't be written; set export.formats: []")
        return fields
    if kind == "longrope":
        original = _original_length(rope, config)
        scale = rope.get("factor") or config.max_position_embeddings / original
        attention = rope.get("attention_factor") or (math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0)
        return {"type": "longrope", "original_context_length": original, "attn_factor": float(attention)}
    return {}


def _original_length(rope: Mapping[str, Any], config: PreTrainedConfig) -> int:
    length = rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
    return int(length or config.max_position_embeddings)


def rope_factors(config: PreTrainedConfig) -> dict[str, numpy.ndarray]:
    """Tensors that divide the rotary frequencies, float32 (rotary size / 2), for the scalings that llama.cpp reads from one."""
    import numpy as np

    rope = _parameters(config)[0] if getattr(config, "rope_parameters", None) else {}
    if rope.get("rope_type") == "longrope":
        return {f"rope_factors_{length}.weight": np.asarray(rope[f"{length}_factor"], np.float32) for length in ("long", "short")}
    if rope.get("rope_type") != "llama3":
        return {}
    frequencies = rope["rope_theta"] ** (-np.arange(0, rotary_size(config), 2) / rotary_size(config))
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)  # over the original context
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)  # 0: scaled by the factor, 1: left as it is
    return {"rope_freqs.weight": (1 / (smooth + (1 - smooth) / rope["factor"])).astype(np.float32)}


def _windows(architecture: GgufArchitecture, config: PreTrainedConfig) -> Fields:
    """The window and the period of its layers; where llama.cpp has no windows, a context in which they hide nothing."""
    window, windowed = getattr(config, "sliding_window", None), _windowed(config)
    period = _period(windowed) if architecture.periodic_windows else None
    if window is not None and period is not None:
        return {"attention.sliding_window": window, "attention.sliding_window_pattern": period}
    if not architecture.windows_alone_rotate and (window is None or not any(windowed)):
        return {}
    if architecture.windows_alone_rotate or (architecture.periodic_windows and len({id(rope) for rope in _parameters(config)}) > 1):
        raise UserError(
            f"export: llama.cpp's {architecture.name} needs windows in every layer but each n-th;"
            " remove no layers (prune_neurons.layers: 0)"
        )
    return {"context_length": min(window, config.max_position_embeddings)}


def _interval(architecture: GgufArchitecture, config: PreTrainedConfig) -> Fields:
    recurrence = spec_for(config.model_type).recurrence
    if not architecture.attention_every or recurrence is None:
        return {}
    period = _period([kind == recurrence.kind for kind in config.layer_types])
    if period is None:
        raise UserError(
            f"export: llama.cpp's {architecture.name} needs attention in every n-th layer alone;"
            " remove no layers (prune_neurons.layers: 0)"
        )
    return {"full_attention_interval": period}


def _windowed(config: PreTrainedConfig) -> list[bool]:
    """Of each layer, whether a window bounds its attention: ``layer_types`` says it, or all do."""
    if getattr(config, "layer_types", None) is not None:
        return [kind == SLIDING for kind in config.layer_types]
    return [True] * config.num_hidden_layers


def _period(windowed: Sequence[bool]) -> int | None:
    """The n of which every n-th layer has no window and all others have one; None if there is no such n."""
    for period in range(2, len(windowed) + 2):
        if all(window == ((layer + 1) % period != 0) for layer, window in enumerate(windowed)):
            return period
    return None
