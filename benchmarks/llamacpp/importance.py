"""The importance matrix of a checkpoint: how large the inputs of each linear layer are over calibration text.

It weighs the error of a rounded weight: an error in a column counts as much as the inputs that meet it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from benchmarks.device import DEVICE
from minigpts.model import checkpoint, packing
from minigpts.model.families import spec_for
from minigpts.model.spec import ArchitectureSpec
from minigpts.profiling.recorder import as_rows, blocks

SEQUENCE_LENGTH = 512  # tokens in one packed sequence of calibration text, where the model has room for them


def calibration_tokens(folder: Path, texts: Sequence[str], num_tokens: int) -> Tensor:
    """The beginning of the texts in a checkpoint's tokens, packed; int64 (sequences, length) on the device that computes."""
    tokenizer, config = checkpoint.load_fast_tokenizer(folder), checkpoint.load_config(folder)
    length = min(SEQUENCE_LENGTH, config.max_position_embeddings)
    return torch.from_numpy(packing.pack_texts(tokenizer, config, texts, length, num_tokens)).to(DEVICE)


def of_checkpoint(folder: Path, tokens: Tensor) -> dict[str, np.ndarray]:
    """The importance (in_features,) of each weight of a checkpoint, by its name in the file; a tied head is the embedding."""
    model = checkpoint.load_model(folder, torch.float32).to(DEVICE)
    spec = spec_for(model.config.model_type)
    head = spec.embedding if model.config.tie_word_embeddings else spec.stored_lm_head
    found = importance(model, spec, tokens)
    return {f"{head if module == spec.lm_head else module}.weight": values for module, values in found.items()}


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
