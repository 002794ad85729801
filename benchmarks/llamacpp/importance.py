"""The importance matrix of a checkpoint: how large the inputs of each linear layer are over calibration text.

It weighs the error of a rounded weight: an error in a column counts as much as the inputs that meet it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from minigpts.model.spec import ArchitectureSpec
from minigpts.profiling.recorder import as_rows, blocks


@torch.inference_mode()
def importance(model: PreTrainedModel, spec: ArchitectureSpec, tokens: Tensor) -> dict[str, np.ndarray]:
    """The mean square of every input of the layers' linear modules and of the lm_head; float32 (in_features,) by module name.

    ``tokens``: packed, (sequences, length), on the model's device.
    """
    sums: dict[str, Tensor] = {}

    def add(name: str, inputs: Tensor) -> None:
        squares = as_rows(inputs).square().sum(0, dtype=torch.float64)
        sums[name] = sums[name] + squares if name in sums else squares

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: add(name, inputs[0])

    layers = cast(nn.ModuleList, model.get_submodule(spec.layers))
    linears = (
        (name, module) for name, module in layers.named_modules(prefix=spec.layers) if isinstance(module, nn.Linear | Conv1D)
    )
    handles = [module.register_forward_pre_hook(hook(name)) for name, module in linears]
    decoder = model.get_submodule(spec.decoder)
    try:
        for batch in tqdm(blocks(tokens), desc="importance", unit="batch"):
            add(spec.lm_head, decoder(input_ids=batch, use_cache=False).last_hidden_state)
    finally:
        for handle in handles:
            handle.remove()
    return {name: (total / tokens.numel()).float().cpu().numpy() for name, total in sums.items()}
