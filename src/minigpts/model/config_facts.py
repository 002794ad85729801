"""The facts of a model in its ``config.json``. Anybody can write one, and some of its fields make libraries load or run things."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Fields that are read nowhere, by what transformers 5 and libraries around it do with them.
NO_FACTS = {
    *("auto_map", "custom_pipelines", "custom_generate"),  # Python files beside the config, or in any repository of the hub
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),  # kernels of the hub; may ignore our masks
    *("experts_implementation", "_experts_implementation", "_experts_implementation_internal"),
    *("use_kernels", "_use_kernels", "kernel_config", "compile_config", "fusion_config"),  # kernels and compilers
    *("distributed_config", "device_map", "tp_plan", "pp_plan", "ep_plan", "base_model_tp_plan", "base_model_pp_plan"),
    *("base_model_ep_plan", "base_model_fsdp_plan"),  # how a model is spread over devices
    *("transformers_weights", "extra_files", "extra_config_files"),  # which files hold the weights
    *("name_or_path", "_name_or_path", "_commit_hash", "adapter_kwargs", "_adapter_model_path"),  # where it came from
    *("torchscript", "return_dict", "use_return_dict", "output_attentions", "output_hidden_states"),  # what calls give back
}
DTYPES = ("float32", "bfloat16", "float16", "float64")  # transformers looks any other name up among torch's functions, too


def facts_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config that say what the model is; without those of :data:`NO_FACTS`, and what isn't a dtype's name."""
    facts = {name: value for name, value in values.items() if name not in NO_FACTS}
    for name in ("dtype", "torch_dtype"):
        if facts.get(name) not in DTYPES:
            facts.pop(name, None)
    return facts
