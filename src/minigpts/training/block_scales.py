"""Tunes the scales of a rounded model's blocks on the domain's text, while the codes stay as they are.

A format's codes are whole numbers, which no gradient moves; a block's scale is a number like any other. So what rounding took
from the tuned weights comes back in part, for one parameter in 32 weights (PEQA, arXiv 2305.14152; the second phase of
EfficientQAT, arXiv 2407.11062). A scale is tuned relative to what it is: one rate then suits every model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from minigpts.model import checkpoint, packing
from minigpts.model.experts import expert_part, split_name
from minigpts.model.families import spec_for
from minigpts.model.packing import Spans
from minigpts.params import Runtime
from minigpts.quantization.blocks import Blocks
from minigpts.training.data import draw_sequences
from minigpts.training.probe import train
from minigpts.training.recipe import Recipe

RATE = 3e-3  # peak learning rate of a scale, in units of itself
WEIGHT_BYTES = 10  # of memory, for each weight: its code, its value, itself, its gradient


class _Scaled(nn.Module):
    """A rounded weight, given by how much larger each block's scale is than it was: (out_features, in_features / block)."""

    values: Tensor  # (out_features, blocks, block)

    def __init__(self, values: Tensor, block: int, transposed: bool) -> None:
        super().__init__()
        self.register_buffer("values", values.unflatten(1, (-1, block)), persistent=False)
        self.transposed = transposed

    def forward(self, larger: Tensor) -> Tensor:
        """The weight, as the layer holds it."""
        weight = torch.addcmul(self.values, self.values, larger[..., None]).flatten(1)
        return weight.T if self.transposed else weight


def tune_scales(
    folder: Path,
    rounded: Mapping[str, Blocks],
    texts: Sequence[str],
    spans: Sequence[Spans | None],
    num_tokens: int,
    recipe: Recipe,
    runtime: Runtime,
) -> dict[str, Blocks]:
    """The ``rounded`` weights of the checkpoint ``folder`` by name, the scales in its layers tuned on ``num_tokens`` of ``texts``.

    The rows are made and taken as by the run's ``recipe``, in another order. Embedding and head stay as they are, as they do in
    tuning. Of a chat, the text has ``spans``: what the assistant says.
    """
    model, tokenizer = checkpoint.load_model(folder, torch.float32), checkpoint.load_fast_tokenizer(folder)
    own = replace(
        recipe,
        learning_rate=RATE,
        max_tokens=max(num_tokens, recipe.tokens_per_step),
        seed=recipe.seed + 1,
        lora_rank=0,
        distillation=0.0,
        general=None,
        general_share=0.0,
    )
    sequences, _ = draw_sequences(tokenizer, texts, packing.boundaries(tokenizer, model.config), own, spans=spans)
    larger = _parametrize(model, rounded)
    if not larger:
        return dict(rounded)
    with tempfile.TemporaryDirectory() as state:
        train(model, sequences, own, runtime, Path(state), own.steps(sequences[:, 0].size))
    return {
        name: blocks.scaled(1 + larger[name].detach().to(blocks.scales.device)) if name in larger else blocks
        for name, blocks in rounded.items()
    }


def _parametrize(model: PreTrainedModel, rounded: Mapping[str, Blocks]) -> dict[str, nn.Parameter]:
    """Give the model the rounded values, those of its layers but the experts' by how much larger each scale is: all that is
    trainable, at 0."""
    spec, larger = spec_for(model.config.model_type), {}
    model.requires_grad_(False)
    for name, blocks in rounded.items():
        values, (module, _, attribute) = blocks.values().cpu(), name.rpartition(".")
        transposed = spec.is_transposed(name, values.shape)
        if not name.startswith(f"{spec.layers}.") or expert_part(spec, split_name(spec, name)[1]) is not None:
            checkpoint.set_tensor(model, name, values.T.contiguous() if transposed else values)
            continue
        owner, larger[name] = model.get_submodule(module), nn.Parameter(torch.zeros(blocks.scales.shape))
        setattr(owner, attribute, larger[name])
        scaled = _Scaled(values, blocks.block_format.block, transposed)
        parametrize.register_parametrization(owner, attribute, scaled, unsafe=True)
    model.tie_weights()
    return larger
