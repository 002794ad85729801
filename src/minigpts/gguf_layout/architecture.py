"""One architecture of llama.cpp as data: how rows lie in it, and what it can't hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

SILU = ("silu", "swish")
# llama.cpp has one GELU, the tanh approximation; the exact one differs from it by less than 0.0005.
GELU = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")
RMS_EPSILON, LAYER_EPSILON = "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"


@dataclass(frozen=True)
class GgufArchitecture:
    """One architecture of llama.cpp, for one family of transformers."""

    name: str  # llama.cpp's
    activation: tuple[str, tuple[str, ...]]  # config field of the MLP's activation, and what llama.cpp computes
    # Config field of the norms' epsilon, or the number that is fixed in the class; and llama.cpp's key.
    epsilon: tuple[str | float, str] = ("rms_norm_eps", RMS_EPSILON)
    interleaved: tuple[str, ...] = ()  # modules whose heads' two rotary halves llama.cpp interleaves, row by row
    fused_by_head: str | None = None  # the module whose rows are (head, [query, key, value]); llama.cpp: ([q, k, v], head)
    norms_plus_one: bool = False  # RMS norms scale by 1 + weight; llama.cpp stores the sum
    head_required: bool = False  # a tied lm_head is written a second time
    separate_head: bool = True  # an untied lm_head has a place
    heads_fill_width: bool = False  # heads × head_dim must be hidden_size
    rotary: bool = True
    unrotated_every: int | None = None  # every n-th layer has no rotary embedding
    # Rotary scalings (config's rope_type) beyond the default: llama3 and longrope come as tensors of factors.
    rope_types: tuple[str, ...] = ("linear", "yarn")
    # Layers with a sliding window follow a period that the file states; elsewhere llama.cpp has no window, and the context
    # is no longer than it.
    periodic_windows: bool = False
    windows_alone_rotate: bool = False  # a layer without a window has no rotary embedding
    attention_every: bool = False  # every n-th layer attends, the others are recurrent, and the file states the n
    sections: bool = False  # the file states which rotary dimensions turn by which of a picture's positions
    temperature: bool = False  # queries are scaled by their position, and yarn's two mscales may be stated, if they are equal
    score_scale: str | None = None  # config field of s in q·k / √s; llama.cpp takes head_dim for it
    # The number of layers by which llama.cpp recognizes the one size whose s is hidden_size / heads.
    scale_by_width_at: int | None = None
    keys: Mapping[str, str] = field(default_factory=dict)  # further keys of the file: config field
    products: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # … and: two config fields, multiplied
    expected: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # config field: the values llama.cpp can hold
    alike: tuple[tuple[str, str], ...] = ()  # config fields of which it can hold one value


def obstacle(architecture: GgufArchitecture, config: PreTrainedConfig) -> str | None:
    """Why ``architecture`` can't hold the config, as what follows its name in a sentence; None where it can."""
    activation, known = architecture.activation
    for name, values in {activation: known, **architecture.expected}.items():
        if getattr(config, name, values[0]) not in values:
            return f"can't hold {name}: {getattr(config, name)}"
    for one, other in architecture.alike:
        if getattr(config, one) != getattr(config, other):
            return f"can't hold {one}: {getattr(config, one)} with {other}: {getattr(config, other)}"
    if not (config.tie_word_embeddings or architecture.separate_head):
        return "has no place for an untied lm_head"
    every, rotated = architecture.unrotated_every, getattr(config, "no_rope_layers", None)
    if every is not None and rotated != [int((layer + 1) % every != 0) for layer in range(config.num_hidden_layers)]:
        return f"has no rotary embedding in every {every}th layer and one in the others, not no_rope_layers: {rotated}"
    if architecture.heads_fill_width and config.num_attention_heads * head_dim(config) != config.hidden_size:
        return "needs heads that fill the hidden size (prune_neurons.heads: 0)"
    if architecture.score_scale is not None:
        by_width = config.num_hidden_layers == architecture.scale_by_width_at
        scale = config.hidden_size // config.num_attention_heads if by_width else head_dim(config)
        if getattr(config, architecture.score_scale) != scale:
            return f"takes {scale} for {architecture.score_scale}, not {getattr(config, architecture.score_scale)}"
    return None


def head_dim(config: PreTrainedConfig) -> int:
    """Size of a head, which some configs state and the others imply."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def kv_heads(config: PreTrainedConfig) -> int:
    """Key/value heads of a layer; without grouped queries as many as query heads."""
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads
