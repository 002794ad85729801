"""Gemma 2 and 3 (text): embeddings scaled on the way in, a norm behind the MLP, sliding windows in some of the layers."""

from dataclasses import replace

from minigpts.architectures.llama import LLAMA

GEMMA2 = replace(
    LLAMA,
    model_type="gemma2",
    mlp_bias_field=None,
    logit_softcap_field="final_logit_softcapping",
    layer_lists=("layer_types",),
)
GEMMA3_TEXT = replace(GEMMA2, model_type="gemma3_text")
