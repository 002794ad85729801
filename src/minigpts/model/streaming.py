"""A checkpoint that computes one decoder layer at a time, every batch of text through it before the next: for models larger than
memory. Weights are read from disk as they are needed, in fp32; kernels, shapes and order are those of the whole model, and so is
every bit of what it gives.

Memory holds one decoder layer, or embedding and head, and of the text what :data:`STREAM_BYTES` allow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from minigpts.model import checkpoint
from minigpts.model.device import keep_large_blocks_apart
from minigpts.model.experts import as_in_model
from minigpts.model.families import spec_for
from minigpts.model.layerwise import Call, advance, around_layers, filled, layers_of
from minigpts.model.weights import StoredWeights, Weights

# Hidden states, masks and rotary tables that go through the layers together. More text goes in several passes, which read the
# weights anew: at 7B shapes once for 65,000 tokens, which take far longer to compute than the weights to read.
STREAM_BYTES = 1 << 30

Inputs = Mapping[str, Any]  # what a decoder is called with: input_ids, and positions and masks where they aren't its own


@dataclass(frozen=True)
class _Stream:
    """Batches on their way through the layers."""

    inputs: list[Inputs]
    hidden: list[Tensor]
    calls: list[list[Call]]  # of each batch, every layer's


class StreamedModel:
    """A causal language model in fp32 and eval mode, of which a part is in memory at a time."""

    dtype = torch.float32

    def __init__(self, directory: Path, device: torch.device, weights: Weights) -> None:
        """The model of the checkpoint folder ``directory`` with these ``weights``, its own or another file's, on ``device``.

        Raises UserError when names or shapes of the weights contradict the config.
        """
        keep_large_blocks_apart()
        self.config, self.device, self.weights = checkpoint.load_config(directory), device, weights
        self.spec = spec_for(self.config.model_type)
        model = checkpoint.empty_model(self.config, self.dtype)
        checkpoint.require_shapes(model, StoredWeights(directory))
        self.layers, self.head = layers_of(self.config, self.spec), cast(nn.Linear, model.get_submodule(self.spec.lm_head))

    def get_submodule(self, name: str) -> nn.Module:
        """The layers, or a module of them, for hooks; its weights are there while it computes."""
        return self.layers.get_submodule(name.removeprefix(self.spec.layers).removeprefix("."))

    def get_output_embeddings(self) -> nn.Linear:
        """The head; its weights are there while :meth:`last_hidden_states` gives a batch."""
        return self.head

    def last_hidden_states(self, batches: Iterable[Inputs]) -> Iterator[Tensor]:
        """What the head reads of each batch, in order: (sequences, tokens, hidden_size)."""
        waiting = iter(batches)
        for batch in waiting:
            stream = self._entering(chain([batch], waiting))
            for index, layer in enumerate(tqdm(self.layers, desc="layers", unit="layer", leave=False)):
                with filled(layer, as_in_model(self.weights.under(f"{self.spec.layers}.{index}"), self.spec), self.device):
                    advance(layer, stream.hidden, [calls[index] for calls in stream.calls])
            yield from self._leaving(stream)

    def _entering(self, batches: Iterator[Inputs]) -> _Stream:
        """The next batches up to ``STREAM_BYTES``, as the decoder hands them to its layers; one at least."""
        stream, held, size = _Stream([], [], []), set[int](), 0
        with around_layers(self.config, self.spec, self.weights, self.device) as (decoder, recorders):
            for inputs in batches:
                decoder(**inputs, use_cache=False)
                stream.inputs.append(inputs)
                stream.hidden.append(recorders[0].hidden)
                stream.calls.append([recorder.call for recorder in recorders])
                leaves = tree_leaves((dict(inputs), stream.hidden[-1], stream.calls[-1]))
                sizes = {leaf.data_ptr(): leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor)}
                size += sum(sizes[place] for place in sizes.keys() - held)
                held |= sizes.keys()
                if size >= STREAM_BYTES:
                    break
        return stream

    def _leaving(self, stream: _Stream) -> Iterator[Tensor]:
        """What the decoder makes of what its last layer gives, the head's weights being there meanwhile."""
        names = [f"{self.spec.stored_lm_head}.weight", f"{self.spec.embedding}.weight"]  # of a tied head, the embedding's
        tensors = {"weight": next(self.weights[name] for name in names if name in self.weights)}
        bias = f"{self.spec.stored_lm_head}.bias"
        if bias in self.weights:
            tensors["bias"] = self.weights[bias]
        with (
            filled(self.head, tensors, self.device),
            around_layers(self.config, self.spec, self.weights, self.device) as (decoder, recorders),
        ):
            for inputs, hidden in zip(stream.inputs, stream.hidden, strict=True):
                recorders[-1].answer = hidden
                yield decoder(**inputs, use_cache=False).last_hidden_state
