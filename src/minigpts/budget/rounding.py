"""What fewer bits cost: each group of tensors is rounded alone, in each format that is allowed, with compensation, and scored.

One pass goes through the parent layer by layer, on the inputs that the unrounded model gives; what the linear layers are given is
summed up as they run, so each weight is rounded for the very text (:mod:`minigpts.quantization.rounding`). Rounded weights lie in
a temporary folder until their group and format are scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from tqdm import tqdm

from minigpts.budget.accounting import grouped
from minigpts.budget.curves import Damage
from minigpts.budget.damage import DamageMeter
from minigpts.model import checkpoint
from minigpts.model.device import keep_large_blocks_apart
from minigpts.model.experts import as_in_model, expert_part
from minigpts.model.families import spec_for
from minigpts.model.layerwise import Call, filled, first_hidden_states, last_hidden_states, layers_of
from minigpts.model.spec import ArchitectureSpec
from minigpts.model.weights import WEIGHTS, StoredWeights, read_tensors, write_tensors
from minigpts.quantization.blocks import Blocks
from minigpts.quantization.formats import BlockFormat, fitting
from minigpts.quantization.groups import formats_of, row_length
from minigpts.quantization.layerwise import LOOKUP, add_square, mirror, pulled, rounded_weights
from minigpts.quantization.rounding import Cost, rounded

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

SWEEPS = 1  # of the improvements behind the compensation: more gain a few percent, at twice the time


def damages(meter: DamageMeter, precisions: Sequence[str]) -> dict[str, dict[str, Damage]]:
    """What rounding each group alone costs, by group and format; a group whose rows hold no format costs nothing."""
    stored, config, spec = meter.parent.stored, meter.parent.config, meter.parent.spec
    names = grouped(spec, stored.shapes)
    groups = list(dict.fromkeys(names.values()))
    tokens = meter.tokens(config, meter.vocabulary.tokenizer)
    with TemporaryDirectory() as folder:
        for name, block_format, blocks in compensated(stored, config, spec, precisions, tokens):
            write_tensors(Path(folder) / f"{name}-{block_format.name}", blocks.tensors())
        model, tokenizer = meter.child(None, None)
        found: dict[str, dict[str, Damage]] = {group: {} for group in groups}
        for group, precision in tqdm([(group, name) for group in groups for name in precisions], desc="bits", unit="score"):
            members = [name for name in names if names[name] == group]
            for name in members:
                block_format = fitting(precision, row_length(spec.model_type, name, stored.shapes[name]))
                path = Path(folder) / f"{name}-{block_format.name}"
                if path.exists():
                    _replace(model, spec, name, Blocks(block_format, **read_tensors(path)).values())
            model.tie_weights()
            found[group][precision] = meter.damage_of(model, tokenizer)
            for name in members:
                checkpoint.set_tensor(model, name, stored[name].to(meter.where, torch.float32, copy=True))
            model.tie_weights()
    return found


def round_in_place(model: PreTrainedModel, wanted: Mapping[str, str], tokens: Tensor) -> None:
    """Round an fp32 model as its file will be, to the formats ``wanted`` by group, for its own ``tokens`` (sequences, length)."""
    spec = spec_for(model.config.model_type)
    with TemporaryDirectory() as folder:
        write_tensors(Path(folder) / WEIGHTS, checkpoint.weights_of(model, torch.float32))
        stored = StoredWeights(Path(folder))
        formats = formats_of(spec.model_type, stored.shapes, wanted)
        blocks = {name: block_format for name, block_format in formats.items() if block_format.levels}
        for name, rounded_weight in rounded_weights(stored, model.config, spec, blocks, tokens):
            _replace(model, spec, name, rounded_weight.values())
    model.tie_weights()


def _replace(model: PreTrainedModel, spec: ArchitectureSpec, name: str, values: Tensor) -> None:
    transposed = spec.is_transposed(name, values.shape)
    checkpoint.set_tensor(model, name, (values.T.contiguous() if transposed else values).to(model.device))


@torch.inference_mode()
def compensated(
    stored: StoredWeights, config: PreTrainedConfig, spec: ArchitectureSpec, precisions: Sequence[str], tokens: Tensor
) -> Iterator[tuple[str, BlockFormat, Blocks]]:
    """Yield each weight (out, in) rounded to each of ``precisions`` or what its rows fall to: its name, the format, the blocks.

    Every one is rounded for the inputs that the unrounded model gives it: the head for the last hidden states, an untied
    embedding for every feature alike.
    """
    keep_large_blocks_apart()
    wanted = {name: _holding(spec, name, stored.shapes[name], precisions) for name in grouped(spec, stored.shapes)}
    layers = layers_of(config, spec)
    stream, calls = first_hidden_states(config, spec, stored, tokens)
    for index, empty in enumerate(tqdm(layers, desc="rounding", unit="layer")):
        prefix = spec.layer(index, "")
        members = [name for name in wanted if name.startswith(prefix)]
        experts = [name for name in members if expert_part(spec, name.removeprefix(prefix)) is not None]
        inside = {name.removeprefix(prefix).removesuffix(".weight"): name for name in members if name not in experts}
        with filled(empty, as_in_model(stored.under(f"{spec.layers}.{index}"), spec), tokens.device) as layer:
            grams = _advance(layer, list(inside), stream, [batch[index] for batch in calls])
        for name in experts:  # to the nearest: too few tokens reach one to fit it to them
            identity = torch.eye(stored.shapes[name][1], device=tokens.device)
            yield from _rounded(stored, spec, {name: wanted[name]}, Cost(identity))
        for gram, modules in grams:
            yield from _rounded(stored, spec, {inside[module]: wanted[inside[module]] for module in modules}, pulled(gram))
    hidden = list(last_hidden_states(config, spec, stored, tokens, stream))
    embedding, head = f"{spec.embedding}.weight", f"{spec.stored_lm_head}.weight"
    for name in (embedding, head):
        if name in wanted:
            identity = torch.eye(stored.shapes[name][1], device=tokens.device)
            untied = name == embedding and head in wanted
            cost = Cost(identity) if untied else _of_head(hidden, identity)
            yield from _rounded(stored, spec, {name: wanted[name]}, cost)


def _holding(spec: ArchitectureSpec, name: str, shape: tuple[int, ...], precisions: Sequence[str]) -> list[BlockFormat]:
    length = row_length(spec.model_type, name, shape)
    return [found for found in dict.fromkeys(fitting(precision, length) for precision in precisions) if found.levels]


def _of_head(hidden: Sequence[Tensor], identity: Tensor) -> Cost:
    """Of a head; a tied one is the embedding, too, whose rows count by themselves."""
    gram = torch.zeros_like(identity)
    for batch in hidden:
        add_square(gram, batch.flatten(0, -2))
    mirror(gram)
    return pulled(gram / gram.diagonal().mean() + LOOKUP * identity)


def _rounded(
    stored: StoredWeights, spec: ArchitectureSpec, formats: Mapping[str, Sequence[BlockFormat]], cost: Cost
) -> Iterator[tuple[str, BlockFormat, Blocks]]:
    """The tensors that share their inputs, those of one format stacked: more rows at once are faster."""
    for block_format in dict.fromkeys(found for each in formats.values() for found in each):
        names = [name for name in formats if block_format in formats[name]]
        weights = [_rows(stored, spec, name).to(cost.gram.device, torch.float32) for name in names]
        blocks = rounded(torch.cat(weights), block_format, cost, SWEEPS)
        lengths = [len(weight) for weight in weights]
        for name, part in zip(names, blocks.split(lengths), strict=True):
            yield name, block_format, part


def _rows(stored: StoredWeights, spec: ArchitectureSpec, name: str) -> Tensor:
    """A stored weight as (out_features, in_features)."""
    weight = stored[name]
    return weight.T.contiguous() if spec.is_transposed(name, weight.shape) else weight


def _advance(
    layer: nn.Module, modules: Sequence[str], stream: list[Tensor], calls: Sequence[Call]
) -> list[tuple[Tensor, list[str]]]:
    """Run the layer on every batch in place. Returns Σ x xᵀ of its ``modules``' inputs, those given the same input together."""
    sums: dict[str, Tensor] = {}
    sharing: dict[str, list[str]] = {}
    given: list[tuple[Tensor, str]] = []  # the inputs of the present batch, and who had each first

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            first = next((other for seen, other in given if seen is inputs[0]), name)
            if name not in sharing.setdefault(first, []):
                sharing[first].append(name)
            if first == name:
                given.append((inputs[0], name))
                rows = inputs[0].flatten(0, -2)
                add_square(sums.setdefault(name, rows.new_zeros(rows.shape[1], rows.shape[1])), rows)

        return add

    with ExitStack() as hooks:
        for module in modules:
            hooks.callback(layer.get_submodule(module).register_forward_pre_hook(note(module)).remove)
        for batch, (args, kwargs) in enumerate(calls):
            stream[batch] = layer(stream[batch], *args, **kwargs)
            given.clear()
    for gram in sums.values():
        mirror(gram)
    return [(sums[first], sharing[first]) for first in sums]
