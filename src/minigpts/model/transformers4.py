"""What transformers 4 spells otherwise than 5, so that a checkpoint says both and every reader makes the same model of it.

One difference no file can mend: 4 takes an attention for Gemma 2 that ignores the softcap on its scores, in Google's own
checkpoints too, unless it is told ``attn_implementation="eager"``; 5 takes that one by itself.
`make compat` reads children of every family under 4.57 and 5 and compares what comes out.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minigpts.model.spec import ArchitectureSpec

LOCAL_THETA = "rope_local_base_freq"  # Gemma 3's second base, that of the layers with a sliding window


def both_spellings(fields: Mapping[str, Any], spec: ArchitectureSpec) -> dict[str, Any]:
    """The ``fields`` of a config.json of transformers 5, with what 4 reads in place of ``dtype`` and ``rope_parameters``."""
    both = copy.deepcopy(dict(fields))
    both["torch_dtype"] = both["dtype"]
    if both.get("rope_parameters"):
        both["rope_parameters"].pop("type", None)  # that 5 keeps of the older spelling, beside its own rope_type
    if both.get("rope_parameters") and spec.older_rope_fields:
        both |= _older_rope(copy.deepcopy(both["rope_parameters"]), spec)
    return both


def _older_rope(rope: dict[str, Any], spec: ArchitectureSpec) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if "full_attention" in rope:  # a setting for each kind of layer: in transformers 4 the local one has a base and no more
        fields[LOCAL_THETA] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    for name, older in spec.older_rope_fields.items():
        if name in rope:
            fields[older] = rope.pop(name)
    if rope["rope_type"] == "longrope":  # Phi-3's config of transformers 4 takes these three keys and no other
        if "original_max_position_embeddings" in rope:
            fields["original_max_position_embeddings"] = rope.pop("original_max_position_embeddings")
        rope["type"] = rope.pop("rope_type")
    if rope.get("rope_type") != "default":
        fields["rope_scaling"] = rope
    return fields


def tokenizer_settings(max_length: int, special_tokens: Mapping[str, str]) -> dict[str, Any]:
    """``tokenizer_config.json`` of any tokenizer; ``special_tokens`` are tokens by role ("eos_token")."""
    return {
        # In both versions the class that takes tokenizer.json as it stands: others replace its pre-tokenizer in 5,
        # and 5's own name for it, TokenizersBackend, doesn't exist in 4.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],  # 4 would add token_type_ids, which no decoder takes
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        **special_tokens,
    }
