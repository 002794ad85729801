"""What a forward pass is asked for here: last hidden states, logits a slice at a time, log-likelihoods, and document masks.

The loss (:mod:`minigpts.model.loss`) and every score of :mod:`minigpts.evaluation` are made of these. A language model's
largest tensor is its logits, (tokens, vocab_size) in fp32, so they exist for one slice of tokens at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.nn.functional import cross_entropy, linear
from transformers import PreTrainedModel

from minigpts.model.families import spec_for
from minigpts.model.streaming import Inputs, StreamedModel

SLICE_ELEMENTS = 2**24  # logits alive at a time: 64 MiB in fp32; smaller slices make slower matrix products

Layout = dict[str, torch.Tensor | dict[str, torch.Tensor | None]]
Model: TypeAlias = PreTrainedModel | StreamedModel  # all of it in memory, or a layer at a time: the same to the last bit


@dataclass(frozen=True)
class Head:
    """What makes logits of hidden states: scale · (hidden · weightᵀ + bias), capped to c·tanh(logits / c) or not."""

    weight: torch.Tensor  # (vocab_size, hidden_size)
    bias: torch.Tensor | None  # (vocab_size,)
    cap: float | None
    scale: float = 1.0

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The logits of hidden states (rows, hidden_size): fp32 (rows, vocab_size)."""
        logits = linear(hidden, self.weight, self.bias).float()
        if self.scale != 1:
            logits.mul_(self.scale)
        return logits if self.cap is None else logits.div_(self.cap).tanh_().mul_(self.cap)

    def slope(self, logits: torch.Tensor) -> torch.Tensor | None:
        """The slope of capped ``logits`` with respect to the uncapped ones, of the same shape; None where nothing is capped."""
        return None if self.cap is None else 1 - (logits / self.cap).square_()

    def slices(self, *tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """Views of the tensors (tokens, …), cut alike, each with as many tokens as may have logits at a time."""
        rows = max(SLICE_ELEMENTS // self.weight.shape[0], 1)
        return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


def head_of(model: Model) -> Head:
    """The model's own head; a tied one shares the embedding's weight."""
    head, spec = model.get_output_embeddings(), spec_for(model.config.model_type)
    bias, config = getattr(head, "bias", None), model.config
    return Head(head.weight, bias, spec.logit_softcap(config), spec.logit_scale(config))


def last_hidden_states(model: PreTrainedModel, input_ids: torch.Tensor, **layout: Any) -> torch.Tensor:
    """What the head reads of ids (sequences, tokens): (sequences, tokens, hidden_size). ``layout``: positions and masks, if any."""
    decoder = model.get_submodule(spec_for(model.config.model_type).decoder)
    return decoder(input_ids=input_ids, use_cache=False, **layout).last_hidden_state


def hidden_states_of(model: Model, batches: Iterable[Inputs]) -> Iterator[torch.Tensor]:
    """What the head reads of each batch, in order, each made when it is asked for: :func:`last_hidden_states` of them all."""
    if isinstance(model, StreamedModel):
        return model.last_hidden_states(batches)
    return (last_hidden_states(model, **inputs) for inputs in batches)


def log_likelihoods(model: Model, hidden: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    """ln p of ``targets`` (tokens,) given last hidden states (tokens, hidden_size); float64 of shape (tokens,).

    The softmax is taken in fp32. Call it where no gradients are recorded: logits are capped in place.
    """
    head = head_of(model)
    losses = [
        cross_entropy(head.logits(states), ids, reduction="none") for states, ids in head.slices(hidden, targets.to(hidden.device))
    ]
    return -torch.cat(losses).double().cpu().numpy()


def document_mask(model: PreTrainedModel, begins: torch.Tensor) -> Layout:
    """The ``position_ids`` and the ``attention_mask`` under which each document of packed rows is computed as if by itself.

    ``begins`` (rows, tokens) is where a document begins: where a label of :func:`minigpts.model.packing.pack_documents` is
    ``IGNORED``, so every token of padding is one. The mask is ours and not what transformers derives from positions that start
    anew, since not all families do that (OPT). A hybrid's recurrent layers take none: there a row holds one document.
    """
    places = torch.arange(begins.shape[1], device=begins.device)
    positions = places - torch.where(begins, places, 0).cummax(dim=1).values
    document = begins.cumsum(dim=1)
    visible = (document[:, :, None] == document[:, None, :]) & (places[:, None] >= places)
    return {"position_ids": positions, "attention_mask": attention_mask(model, visible[:, None], positions)}


def attention_mask(model: Model, visible: torch.Tensor, positions: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor | None]:
    """What every layer, or every type of layer, adds to its attention scores, so that each token attends to what it may.

    ``visible`` is bool (rows, 1, from, to), ``positions`` (rows, tokens). transformers takes a mask of four axes as it
    is, without its sliding window, so the window is cut here: a token sees itself and the ``sliding_window`` − 1 before it.
    """

    def additive(seen: torch.Tensor) -> torch.Tensor:
        # Every attention implementation takes it so; and finite, since padding attends to nothing at all.
        return torch.where(seen, 0.0, torch.finfo(model.dtype).min).to(model.dtype)

    window = getattr(model.config, "sliding_window", None)
    distances = positions[:, None, :, None] - positions[:, None, None, :]
    full = additive(visible)
    windowed = full if window is None else additive(visible & (distances < window))
    # A decoder with layers of several types takes a mask for each.
    spec = spec_for(model.config.model_type)
    if "layer_types" not in spec.layer_lists:
        return windowed
    masks: dict[str, torch.Tensor | None] = {"full_attention": full, "sliding_attention": windowed}
    return masks if spec.recurrence is None else {**masks, spec.recurrence.kind: None}
