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
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers.pytorch_utils import Conv1D

from minigpts.model import checkpoint, packing
from minigpts.model.device import keep_large_blocks_apart
from minigpts.model.experts import as_in_model, expert_part, split_name
from minigpts.model.families import spec_for
from minigpts.model.layerwise import Call, advance, filled, first_hidden_states, given_to, hooked, last_hidden_states, layers_of
from minigpts.model.spec import ArchitectureSpec
from minigpts.model.weights import StoredWeights
from minigpts.quantization.blocks import Blocks
from minigpts.quantization.formats import BlockFormat
from minigpts.quantization.rounding import Cost, rounded

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

RIDGE = 0.5  # of the pull towards the weights as they are, relative to the sum of squares of each input
BLOCK_COLUMNS = 512  # of a symmetric product, made at a time: what is above them isn't made
LOOKUP = 0.1  # weight of an embedding's own error, beside the error of the logits where it is the head as well


def rounded_checkpoint(
    directory: Path,
    formats: Mapping[str, BlockFormat],
    texts: Sequence[str],
    sequence_length: int,
    num_tokens: int,
    where: torch.device,
) -> Iterator[tuple[str, Blocks]]:
    """A checkpoint's weights that ``formats`` names, rounded for ``num_tokens`` of the texts, one at a time.

    The text is packed in sequences of ``sequence_length`` tokens, or of as many as the model and the texts have.
    """
    config, tokenizer = checkpoint.load_config(directory), checkpoint.load_fast_tokenizer(directory)
    documents = list(packing.encode_lazily(tokenizer, texts))
    length = min(sequence_length, config.max_position_embeddings, sum(map(len, documents)))
    tokens = torch.from_numpy(packing.pack_stream(documents, packing.boundaries(tokenizer, config), length, num_tokens))
    yield from rounded_weights(StoredWeights(directory), config, spec_for(config.model_type), formats, tokens.to(where))


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
            groups = _advance_noting(parent, chosen, parent_stream, layer_calls)
        with filled(children[index], tensors, tokens.device) as child:
            while groups:
                for module, blocks in _rounded_group(child, *groups.pop(0), chosen, child_stream, layer_calls):
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
            blocks = rounded(weight, formats[name], Cost(torch.eye(weight.shape[1], device=weight.device)))
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
    gram = torch.zeros(size, size, device=tokens.device)
    for hidden in last_hidden_states(config, spec, stored, tokens, stream):
        add_square(gram, hidden.flatten(0, -2))
    mirror(gram)
    del stream
    for name in names:
        weight = stored[name].to(tokens.device, torch.float32)
        if name == embedding and head in stored:
            cost = Cost(torch.eye(weight.shape[1], device=tokens.device))
        else:
            cost = pulled(gram / gram.diagonal().mean() + LOOKUP * torch.eye(size, device=tokens.device))
        yield name, rounded(weight, formats[name], cost)


def add_square(gram: Tensor, rows: Tensor) -> None:
    """Add Σ x xᵀ over ``rows`` (tokens, in) to the lower triangle of ``gram`` (in, in); the other is for :func:`mirror`."""
    for start in range(0, len(gram), BLOCK_COLUMNS):
        block = slice(start, start + BLOCK_COLUMNS)
        gram[start:, block].addmm_(rows[:, start:].T, rows[:, block])


def mirror(gram: Tensor) -> None:
    """Fill in the upper triangle of a symmetric matrix."""
    for start in range(0, len(gram), BLOCK_COLUMNS):
        end = start + BLOCK_COLUMNS
        gram[start:end, end:] = gram[end:, start:end].T


def pulled(gram: Tensor) -> Cost:
    """The cost of Σ x xᵀ = ``gram`` (in, in), changed in place, with the pull of a weight towards itself: positive definite."""
    diagonal = gram.diagonal()
    diagonal += RIDGE * diagonal + 1e-6 * diagonal.mean() + 1e-30
    return Cost(gram)


def _advance_noting(
    layer: nn.Module, modules: Iterable[str], stream: list[Tensor], calls: Sequence[Call]
) -> list[tuple[list[str], list[Tensor]]]:
    """Run the unrounded layer on every batch in place. Returns ``modules`` in the order they are called in, those given the same
    input together, and that input, (sequences, length, in_features) a batch."""
    noted: dict[str, list[Tensor]] = {}
    sharing: dict[str, list[str]] = {}

    def note(module: str, given: Tensor) -> None:
        first = next((other for other, inputs in noted.items() if inputs[-1] is given), module)
        if first == module:
            noted.setdefault(module, []).append(given)
        if module not in sharing.setdefault(first, []):
            sharing[first].append(module)

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda _, inputs, __: note(name, inputs[0])

    with ExitStack() as hooks:
        for name in modules:
            hooks.enter_context(hooked(layer.get_submodule(name), hook(name)))
        advance(layer, stream, calls)
    return [(sharing[first], inputs) for first, inputs in noted.items()]


def _rounded_group(
    child: nn.Module,
    modules: Sequence[str],
    meant: list[Tensor],
    formats: Mapping[str, BlockFormat],
    stream: Sequence[Tensor],
    calls: Sequence[Call],
) -> Iterator[tuple[str, Blocks]]:
    """The linear layers that share an input, each rounded in place as well; ``meant``, which the unrounded model gives them, is
    used up."""
    size = _rows(child, modules[0]).shape[1]
    gram, shift = (torch.zeros(size, size, device=stream[0].device) for _ in range(2))
    for hidden, call in zip(stream, calls, strict=True):
        given = given_to(child, modules[0], hidden, call)
        add_square(gram, given.flatten(0, -2))
        shift.addmm_((meant.pop(0) - given).flatten(0, -2).T, given.flatten(0, -2))
    mirror(gram)
    cost = pulled(gram)
    for block_format in dict.fromkeys(formats[module] for module in modules):
        members = [module for module in modules if formats[module] == block_format]
        weights = [_rows(child, module) for module in members]
        weight = torch.cat(weights)
        # argmin_V Σ‖W y − V x‖² + the pull to W, x being what is given and y what is meant: V = W + W Σ (y − x) xᵀ cost⁻¹.
        together = rounded(weight + cost.solve(weight @ shift), block_format, cost)
        for module, own, blocks in zip(members, weights, together.split([len(own) for own in weights]), strict=True):
            own.copy_(blocks.values())
            yield module, blocks


def _rows(layer: nn.Module, module: str) -> Tensor:
    """A view of a linear layer's weight, (out_features, in_features)."""
    linear = layer.get_submodule(module)
    weight = cast(Tensor, linear.weight)
    return weight.T if isinstance(linear, Conv1D) else weight


def _linears(layer: nn.Module) -> list[str]:
    return [name for name, module in layer.named_modules() if isinstance(module, nn.Linear | Conv1D)]
