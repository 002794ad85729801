"""Low-rank adapters (LoRA, arXiv 2106.09685) inside the model's own layers, through peft, and the plain weights they amount to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from minigpts.errors import UserError
from minigpts.model import checkpoint
from minigpts.model.families import spec_for

ADAPTER = "default"


def attach(model: PreTrainedModel, rank: int, seed: int) -> None:
    """Give every linear layer of the decoder layers an adapter of ``rank``, in place; nothing else is trainable from then on.

    An adapter starts as zero and is scaled by 2, peft's ``lora_alpha`` being twice the rank. Raises UserError without peft.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("params.yaml: finetune.lora_rank > 0 needs peft; pip install -e '.[lora]'") from None
    spec = spec_for(model.config.model_type)
    layers = model.get_submodule(spec.layers).named_modules(prefix=spec.layers)
    targets = [name for name, module in layers if type(module) in (nn.Linear, Conv1D)]  # a router gives more than a tensor
    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, fan_in_fan_out=spec.transposed)
    inject_adapter_in_model(config, model, ADAPTER)


def restore(model: PreTrainedModel, weights: Mapping[str, torch.Tensor]) -> None:
    """Put back what :func:`merged_weights` gave. An adapter's part is in its layer from then on, and the adapter adds nothing."""
    adapted = {name: module for name, module in model.named_modules() if hasattr(module, "get_delta_weight")}
    own = checkpoint.as_stored(model)
    with torch.no_grad():
        for name, tensor in weights.items():
            module = name.rpartition(".")[0]
            own[name.replace(module, f"{module}.base_layer") if module in adapted else name].copy_(tensor)
        for module in adapted.values():
            module.lora_B[ADAPTER].weight.zero_()


def merged_weights(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The model's tensors as a checkpoint stores them, in ``dtype``: each adapter, if there are any, added to its layer."""
    adapted = {f"{name}.weight": module for name, module in model.named_modules() if hasattr(module, "get_delta_weight")}
    if not adapted:
        return checkpoint.weights_of(model, dtype)
    weights = {}
    for name, tensor in checkpoint.weights_of(model, torch.float32).items():
        if ".lora_" not in name:
            name = name.replace(".base_layer.", ".")
            if name in adapted:
                tensor = tensor + adapted[name].get_delta_weight(ADAPTER).detach().cpu()
            weights[name] = tensor.to(dtype)
    return weights
