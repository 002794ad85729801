"""Rounds a model to the domain, layer after layer, each on the inputs that the already rounded layers before it really give.

What a linear layer is asked for is what the unrounded model gives there for the same text, so a layer also makes up for what
rounding did before it (GPTAQ, arXiv 2504.02692): its weights are first refitted to that, pulled towards themselves as in
:mod:`minigpts.pruning.ridge`, and then rounded under the very same cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers.pytorch_utils import Conv1D

from minigpts.model.device import keep_large_blocks_apart
from minigpts.model.layerwise import Call, advance, filled, first_hidden_states, given_to, layers_of
from minigpts.model.spec import ArchitectureSpec
from minigpts.model.weights import StoredWeights
from minigpts.quantization.formats import BlockFormat
from minigpts.quantization.rounding import rounded

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

RIDGE = 0.03  # strength of the pull towards the weights as they are, relative to the sum of squares of each input
HEAD_SHARE = 0.5


@torch.inference_mode()
def rounded_model(
    stored: StoredWeights,
    config: PreTrainedConfig,
    spec: ArchitectureSpec,
    formats: Mapping[str, BlockFormat],
    tokens: Tensor,
    ridge: float = RIDGE,
    asymmetric: bool = True,
    sweeps: int = 4,
) -> Iterator[tuple[str, Tensor]]:
    """Yield..."""
    keep_large_blocks_apart()
    where = tokens.device
    parents, children = layers_of(config, spec), layers_of(config, spec)
    parent_stream, calls = first_hidden_states(config, spec, stored, tokens)
    child_stream = list(parent_stream)
    for index in tqdm(range(len(parents)), desc="rounding", unit="layer"):
        layer_calls = [batch[index] for batch in calls]
        tensors = stored.under(f"{spec.layers}.{index}")
        with filled(parents[index], tensors, where) as parent, filled(children[index], tensors, where) as child:
            for modules in sharing_inputs(child, child_stream[0], layer_calls[0]):
                chosen = [m for m in modules if spec.layer(index, f"{m}.weight") in formats]
                if not chosen:
                    continue
                weights = {m: _weight(child, m) for m in chosen}
                stacked = torch.cat(list(weights.values()))
                size = stacked.shape[1]
                gram = torch.zeros(size, size, dtype=torch.float64, device=where)
                cross = torch.zeros(size, size, dtype=torch.float64, device=where)
                for ph, ch, call in zip(parent_stream, child_stream, layer_calls, strict=True):
                    x = given_to(child, chosen[0], ch, call).flatten(0, -2)
                    gram += x.T @ x
                    if asymmetric:
                        y = given_to(parent, chosen[0], ph, call).flatten(0, -2)
                        cross += y.T @ x
                prior = ridge * gram.diagonal() + 1e-8 * gram.diagonal().mean() + 1e-30
                total = gram + torch.diag(prior)
                for m, w in weights.items():
                    target = w.double()
                    if asymmetric:
                        target = torch.linalg.solve(total, (target @ cross + target * prior).T).T
                    blocks = rounded(target.float(), formats[spec.layer(index, f"{m}.weight")], total.float(), sweeps)
                    values = blocks.values()
                    _weight(child, m).copy_(values)
                    yield spec.layer(index, f"{m}.weight"), values.T if spec.transposed else values
            advance(parent, parent_stream, layer_calls)
            advance(child, child_stream, layer_calls)


def _weight(layer: nn.Module, module: str) -> Tensor:
    linear = layer.get_submodule(module)
    weight = cast(Tensor, linear.weight)
    return weight.T if isinstance(linear, Conv1D) else weight


def sharing_inputs(layer: nn.Module, hidden: Tensor, call: Call) -> list[list[str]]:
    """The linear layers of a decoder layer in the order they are called in, those given the same input together."""
    seen: list[tuple[int, list[str]]] = []
    kept: list[Tensor] = []
    handles = []
    for name, module in layer.named_modules():
        if isinstance(module, nn.Linear | Conv1D):

            def note(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                kept.append(inputs[0])
                if seen and seen[-1][0] == id(inputs[0]):
                    seen[-1][1].append(name)
                else:
                    seen.append((id(inputs[0]), [name]))

            handles.append(module.register_forward_pre_hook(note))
    args, kwargs = call
    try:
        layer(hidden, *args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return [names for _, names in seen]
