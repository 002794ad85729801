"""Rounds a model to the domain, layer after layer, each on the inputs that the already rounded layers before it really give.

What a linear layer is asked for is what the unrounded model gives there for the same text, so a layer also makes up for what
rounding did before it (GPTAQ, arXiv 2504.02692): its weights are first refitted to that, pulled towards themselves in proportion
to how loud each input is, and then rounded under the very same cost. Embedding and head are rounded for what the head reads.

Memory holds the residual streams of the calibration text, of both models, one decoder layer, what the unrounded one gave its
linear layers, and one linear layer's sums.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers.pytorch_utils import Conv1D

from minigpts.model.device import keep_large_blocks_apart
from minigpts.model.experts import as_in_model, expert_part, split_name
from minigpts.model.layerwise import Call, advance, filled, first_hidden_states, given_to, hooked, last_hidden_states, layers_of
from minigpts.model.spec import ArchitectureSpec
from minigpts.model.weights import StoredWeights
from minigpts.quantization.blocks import Blocks
from minigpts.quantization.formats import BlockFormat
from minigpts.quantization.rounding import rounded

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

RIDGE = 0.5  # of the pull towards the weights as they are, relative to the sum of squares of each input
LOOKUP = 0.1  # weight of an embedding's own error, beside the error of the logits where it is the head as well


@torch.inference_mode()
def rounded_weights(
    stored: StoredWeights,
    config: PreTrainedConfig,
    spec: ArchitectureSpec,
    formats: Mapping[str, BlockFormat],
    tokens: Tensor,
) -> Iterator[tuple[str, Blocks]]:
    """The weights that ``formats`` names, rounded, one at a time: rows are output features, in every family.

    ``tokens`` (sequences, length) are the packed calibration text.
    """
    keep_large_blocks_apart()
    parents, children = layers_of(config, spec), layers_of(config, spec)
    parent_stream, calls = first_hidden_states(config, spec, stored, tokens)
    outside = dict(_rounded_outside(stored, config, spec, formats, tokens, parents, parent_stream, calls))
    yield from outside.items()
    values = {name: blocks.values() for name, blocks in outside.items()}
    child_stream, _ = first_hidden_states(config, spec, ChainMap(values, cast(dict[str, Tensor], stored)), tokens)
    for index in tqdm(range(len(parents)), desc="rounding", unit="layer"):
        layer_calls, tensors = [batch[index] for batch in calls], as_in_model(stored.under(f"{spec.layers}.{index}"), spec)
        chosen = {m: formats[n] for m in _linears(children[index]) if (n := spec.layer(index, f"{m}.weight")) in formats}
        with filled(parents[index], tensors, tokens.device) as parent:
            groups = _sharing_inputs(parent, chosen, parent_stream[0], layer_calls[0])
            wanted = _advance_noting(parent, [group[0] for group in groups], parent_stream, layer_calls)
        with filled(children[index], tensors, tokens.device) as child:
            for group in groups:
                for module, blocks in _rounded_group(child, group, chosen, wanted.pop(group[0]), child_stream, layer_calls):
                    yield spec.layer(index, f"{module}.weight"), blocks
            yield from _rounded_experts(spec, formats, index, child)
            advance(child, child_stream, layer_calls)


def _rounded_experts(
    spec: ArchitectureSpec, formats: Mapping[str, BlockFormat], index: int, child: nn.Module
) -> Iterator[tuple[str, Blocks]]:
    """A layer's experts, each rounded to the nearest, in place as well: too few tokens reach one to fit it to them."""
    for name in formats:
        before, below = split_name(spec, name)
        part = expert_part(spec, below) if before == spec.layer(index, "") else None
        if part is not None:
            weight = part.of(child.state_dict()[part.name])
            blocks = rounded(weight, formats[name], torch.eye(weight.shape[1], device=weight.device))
            weight.copy_(blocks.values())
            yield name, blocks


def _rounded_outside(
    stored: StoredWeights,
    config: PreTrainedConfig,
    spec: ArchitectureSpec,
    formats: Mapping[str, BlockFormat],
    tokens: Tensor,
    layers: nn.ModuleList,
    first: Sequence[Tensor],
    calls: Sequence[Sequence[Call]],
) -> Iterator[tuple[str, Blocks]]:
    """Embedding and head, for the last hidden states that the unrounded model gives."""
    embedding, head = f"{spec.embedding}.weight", f"{spec.stored_lm_head}.weight"
    names = [name for name in (embedding, head) if name in formats]
    if not names:
        return
    stream = list(first)
    for index, layer in enumerate(layers):
        with filled(layer, as_in_model(stored.under(f"{spec.layers}.{index}"), spec), tokens.device):
            advance(layer, stream, [batch[index] for batch in calls])
    size = stored.shapes[names[-1]][1]
    gram = torch.zeros(size, size, dtype=torch.float64, device=tokens.device)
    for hidden in last_hidden_states(config, spec, stored, tokens, stream):
        rows = hidden.flatten(0, -2)
        gram += rows.T @ rows
    del stream
    for name in names:
        weight = stored[name].to(tokens.device, torch.float32)
        if name == embedding and head in stored:
            cost = torch.eye(weight.shape[1], device=tokens.device)
        else:
            cost = pulled(gram / gram.diagonal().mean() + LOOKUP * torch.eye(size, device=tokens.device)).float()
        yield name, rounded(weight, formats[name], cost)


def pulled(gram: Tensor) -> Tensor:
    """Σ x xᵀ (in, in) with the pull of a weight towards itself: the cost that it is rounded under, and positive definite."""
    return gram + torch.diag(RIDGE * gram.diagonal() + 1e-6 * gram.diagonal().mean() + 1e-30)


def _advance_noting(
    layer: nn.Module, modules: Sequence[str], stream: list[Tensor], calls: Sequence[Call]
) -> dict[str, list[Tensor]]:
    """Run the unrounded layer on every batch in place. Returns what each of ``modules`` is given, (tokens, in_features) a batch."""
    noted: dict[str, list[Tensor]] = {module: [] for module in modules}

    def note(module: str, given: Tensor) -> None:
        noted[module].append(given.flatten(0, -2))

    with _watching(layer, modules, note):
        advance(layer, stream, calls)
    return noted


@contextmanager
def _watching(layer: nn.Module, modules: Iterable[str], note: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Inside, ``note`` gets the name of each of ``modules`` that is called, and what it is given."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda _, inputs, __: note(name, inputs[0])

    with ExitStack() as hooks:
        for name in modules:
            hooks.enter_context(hooked(layer.get_submodule(name), hook(name)))
        yield


def _rounded_group(
    child: nn.Module,
    modules: Sequence[str],
    formats: Mapping[str, BlockFormat],
    wanted: Sequence[Tensor],
    stream: Sequence[Tensor],
    calls: Sequence[Call],
) -> Iterator[tuple[str, Blocks]]:
    """The linear layers that share an input, each rounded in place as well; ``wanted`` is what the unrounded model gives them."""
    size = _rows(child, modules[0]).shape[1]
    gram, cross = (torch.zeros(size, size, dtype=torch.float64, device=stream[0].device) for _ in range(2))
    for meant, hidden, call in zip(wanted, stream, calls, strict=True):
        given = given_to(child, modules[0], hidden, call).flatten(0, -2)
        gram += given.T @ given
        cross += meant.T @ given
    total = pulled(gram)
    # argmin_V Σ‖W y − V x‖² + the pull to W, x being what is given and y what is meant: V = W (Σ y xᵀ + pull) total⁻¹.
    towards = torch.linalg.solve(total, (cross + total - gram).T).T.float()
    for module in modules:
        weight = _rows(child, module)
        blocks = rounded(weight @ towards, formats[module], total.float())
        weight.copy_(blocks.values())
        yield module, blocks


def _rows(layer: nn.Module, module: str) -> Tensor:
    """A view of a linear layer's weight, (out_features, in_features)."""
    linear = layer.get_submodule(module)
    weight = cast(Tensor, linear.weight)
    return weight.T if isinstance(linear, Conv1D) else weight


def _linears(layer: nn.Module) -> list[str]:
    return [name for name, module in layer.named_modules() if isinstance(module, nn.Linear | Conv1D)]


def _sharing_inputs(layer: nn.Module, modules: Iterable[str], hidden: Tensor, call: Call) -> list[list[str]]:
    """The linear layers in the order they are called in, those given the same input together."""
    groups: list[tuple[Tensor, list[str]]] = []

    def note(name: str, given: Tensor) -> None:
        if groups and groups[-1][0] is given:
            groups[-1][1].append(name)
        else:
            groups.append((given, [name]))

    args, kwargs = call
    with _watching(layer, modules, note):
        layer(hidden, *args, **kwargs)
    return [names for _, names in groups]
