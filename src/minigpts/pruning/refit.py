"""Making up for what was removed, in closed form, without training.

``bias``: what the dropped neurons wrote on average is folded into the output projection's bias (FLAP, arXiv 2312.11983).

``least_squares``: the MLP's output projection of each layer, and attention's where heads are removed, is refitted, first layer
to last, on the inputs that the already pruned layers before it really give. Its target is the parent's own residual stream
behind the block, so that the refit also corrects what earlier cuts (removed heads included) got wrong. Where the layers behind
it are removed, the target is the parent's stream behind those: the MLP in front of them writes what they would have written, as
far as that is linear in its neurons (as ReplaceMe's linear map does, arXiv 2505.02819, but in one fit with the neurons' own).
Where a norm lies between a projection and the stream (Gemma 2 and 3, OPT-350m), the target is what the parent's projection gives
there. A projection's bias is refitted with it. A mixture's experts are refitted in the MLP's place, to the same target.

Memory holds the residual streams of the calibration text, of parent and child, one decoder layer, and one projection's sums:
never a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from minigpts.errors import UserError
from minigpts.model.device import keep_large_blocks_apart
from minigpts.model.experts import DOWN, Part, as_in_model, part_of, stored_parts
from minigpts.model.layerwise import Call, advance, filled, first_hidden_states, given_to, hooked, layers_of
from minigpts.model.spec import ArchitectureSpec
from minigpts.model.weights import StoredWeights
from minigpts.pruning import ridge
from minigpts.pruning.expert_refit import refit_experts
from minigpts.pruning.slicing import AttentionShape, LayerCut, slice_layer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

ChangedLayer = tuple[int, dict[str, Tensor]]  # a remaining layer's index in the parent, and those of its tensors that changed


def with_folded_means(tensors: Mapping[str, Tensor], spec: ArchitectureSpec, mean: Tensor, keep: Tensor) -> dict[str, Tensor]:
    """An uncut layer's tensors, with the output bias that holds once the neurons outside ``keep`` are replaced by their mean.

    ``mean`` is E a, (intermediate_size,). MLPs without biases get them, 0 but for this one. Raises UserError for a family
    that can't have any.
    """
    folded = dict(tensors)
    for module in (*spec.mlp_in, spec.mlp_out):
        if f"{module}.bias" not in folded:
            if spec.mlp_bias_field is None:
                raise UserError(
                    f"params.yaml: prune_neurons.refit 'bias' needs MLP biases, which {spec.model_type} models can't have"
                )
            weight = folded[f"{module}.weight"]
            folded[f"{module}.bias"] = weight.new_zeros(weight.shape[1 - spec.input_axis])
    weight, bias = folded[f"{spec.mlp_out}.weight"], folded[f"{spec.mlp_out}.bias"]
    weight_out = weight.T if spec.transposed else weight  # (hidden_size, intermediate_size)
    dropped = torch.ones(len(mean), dtype=torch.bool)
    dropped[keep] = False
    folded[f"{spec.mlp_out}.bias"] = (bias.double() + weight_out[:, dropped].double() @ mean[dropped].double()).to(bias.dtype)
    return folded


@torch.inference_mode()
def least_squares(
    stored: StoredWeights,
    parent: PreTrainedConfig,
    child: PreTrainedConfig,
    spec: ArchitectureSpec,
    cuts: Sequence[LayerCut],
    attention: AttentionShape,
    tokens: Tensor,
) -> Iterator[ChangedLayer]:
    """Yield each of the child's layers, first to last: its index in the parent, and by their names in the layer the tensors that
    were sliced or refitted, of the child's dtype.

    ``stored`` holds the parent; ``parent`` and ``child`` are the configs; ``attention`` is the parent's; ``tokens``
    (sequences, length) are the packed calibration text.
    """
    keep_large_blocks_apart()
    where = tokens.device
    parents = layers_of(parent, spec)
    children = layers_of(child, spec)
    parent_stream, calls = first_hidden_states(parent, spec, stored, tokens)
    child_stream = list(parent_stream)
    directly: dict[tuple[bool, str], dict[str, bool]] = {}  # by whether a layer attends, as norms may lie elsewhere, and its block

    def advance_parent(
        index: int, block: str = "", refitted: Sequence[str] = ()
    ) -> tuple[dict[str, list[Tensor]], dict[str, bool]]:
        layer_calls, kind = [batch[index] for batch in calls], (spec.attends(stored.shapes, index), block)
        with filled(parents[index], as_in_model(stored.under(f"{spec.layers}.{index}"), spec), where) as layer:
            if refitted and kind not in directly:
                directly[kind] = _writes_directly(layer, spec, block, parent_stream[0], layer_calls[0])
            direct = directly.get(kind, {})
            caught = [module for module in refitted if module != block or not direct[module]]
            targets = _advance_parent(layer, caught, parent_stream, layer_calls, direct)
        bar.update()
        return targets, direct

    with tqdm(total=len(parents), desc="refit", unit="layer") as bar:
        for index in range(cuts[0].index):  # layers removed in front of all that remain
            advance_parent(index)
        next_kept = [*(cut.index for cut in cuts[1:]), len(parents)]
        for empty, cut, end in zip(children, cuts, next_kept, strict=True):
            block = _block(spec, cut)
            modules = [spec.attention_out] if len(cut.groups) < attention.num_groups else []
            modules += [block] if block else []
            targets, direct = advance_parent(cut.index, block, modules)
            for index in range(cut.index + 1, end):  # layers removed behind this one
                advance_parent(index)
            if direct.get(block):
                targets[block] = list(parent_stream)  # where the next remaining layer begins
            layer_calls = [batch[cut.index] for batch in calls]
            tensors, changed = _sliced(stored, spec, cut, attention)
            with filled(empty, as_in_model(tensors, spec), where) as layer:
                del tensors
                for module in modules:
                    changed |= _refit(layer, spec, module, child_stream, layer_calls, targets.pop(module), direct[module])
                advance(layer, child_stream, layer_calls)
                # What was only sliced comes back from fp32 as it was.
                state = layer.state_dict()
                places = {name: part_of(spec.experts, name) if spec.experts else Part(name) for name in sorted(changed)}
                found = {name: part.of(state[part.name]).to("cpu", child.dtype, copy=True) for name, part in places.items()}
            del state
            yield cut.index, found


def _refit(
    layer: nn.Module,
    spec: ArchitectureSpec,
    module: str,
    stream: list[Tensor],
    calls: Sequence[Call],
    targets: list[Tensor],
    direct: bool,
) -> set[str]:
    """Refit a projection, or the experts. Returns what the weights file calls the tensors that changed."""
    if spec.experts is not None and module == spec.experts.module:
        refit_experts(layer, module, stream, calls, targets, direct)
        number = cast(int, layer.get_submodule(module).num_experts)
        return {stored for stored, _ in stored_parts(spec.experts, f"{module}.{DOWN}", number)}
    projection = cast(nn.Linear, layer.get_submodule(module))
    ridge.refit_projection(projection, spec.transposed, _samples(layer, spec, module, stream, calls, targets, direct))
    return {f"{module}.{kind}" for kind, _ in projection.named_parameters()}


def _sliced(
    stored: StoredWeights, spec: ArchitectureSpec, cut: LayerCut, attention: AttentionShape
) -> tuple[dict[str, Tensor], set[str]]:
    """A layer's tensors after the cut, and the names of those that it changed."""
    whole = stored.under(f"{spec.layers}.{cut.index}")
    tensors = slice_layer(whole, spec, cut, attention)
    return tensors, {name for name, tensor in tensors.items() if tensor is not whole.get(name)}


def _block(spec: ArchitectureSpec, cut: LayerCut) -> str:
    """What the layer writes last with: the MLP's output projection, or the experts; "" in a mixture's dense layer."""
    return spec.mlp_out or (spec.experts.module if spec.experts is not None and len(cut.experts) else "")


def _writes_directly(layer: nn.Module, spec: ArchitectureSpec, block: str, hidden: Tensor, call: Call) -> dict[str, bool]:
    """Whether the layer adds what attention's output projection and the ``block`` give to the stream as it is: not so with a norm
    in between.

    Found out by running it, since a config may switch it (OPT). Beside experts, attention's is fitted to what the parent's gives.
    """
    if not block:
        return {spec.attention_out: False}
    args, kwargs = call
    modules = {name: module for name, module in layer.named_modules() if name in (spec.attention_out, block)}
    given: dict[str, Tensor] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda _, inputs, output: given.__setitem__(name, output.view_as(hidden))

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.enter_context(hooked(module, note(name)))
        whole = layer(hidden, *args, **kwargs)
    without, _ = _without_block(layer, block, hidden, call)
    before = {spec.attention_out: (hidden, without), block: (without, whole)}
    slack = 1e-3 * float(whole.std())
    return {
        name: (name == block or bool(spec.mlp_out))
        and torch.allclose(before[name][0] + written, before[name][1], rtol=1e-3, atol=slack)
        for name, written in given.items()
    }


def _advance_parent(
    layer: nn.Module, caught: Sequence[str], stream: list[Tensor], calls: Sequence[Call], direct: Mapping[str, bool]
) -> dict[str, list[Tensor]]:
    """Run one parent layer on every batch in place. Returns the regression target of each captured projection, batch by batch:
    what it gives, and for attention's, where it writes directly, the stream it writes to besides."""
    targets: dict[str, list[Tensor]] = {module: [] for module in caught}
    for batch, (args, kwargs) in enumerate(calls):
        hidden = stream[batch]

        def note(module: str, hidden: Tensor = hidden) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
            offset = hidden if direct[module] else 0
            return lambda _, inputs, output: targets[module].append(offset + output.view_as(hidden))

        with ExitStack() as hooks:
            for module in caught:
                hooks.enter_context(hooked(layer.get_submodule(module), note(module)))
            stream[batch] = layer(hidden, *args, **kwargs)
    return targets


def _without_block(layer: nn.Module, block: str, hidden: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    """What the layer gives when its MLP or its experts write nothing, and what the ``block`` is given meanwhile."""
    caught: list[Tensor] = []

    def silence(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        caught.append(inputs[0])
        return torch.zeros_like(output)

    args, kwargs = call
    with hooked(layer.get_submodule(block), silence):
        return layer(hidden, *args, **kwargs), caught[0]


def _samples(
    layer: nn.Module,
    spec: ArchitectureSpec,
    module: str,
    stream: list[Tensor],
    calls: Sequence[Call],
    targets: list[Tensor],
    direct: bool,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Per batch, what the child's projection is given, (sequences, length, in_features), and should give, (…, hidden_size)."""
    for hidden, call, target in zip(stream, calls, targets, strict=True):
        if direct and module == spec.mlp_out:
            before, given = _without_block(layer, module, hidden, call)
        else:
            before, given = hidden, given_to(layer, module, hidden, call)
        yield given.view(*hidden.shape[:-1], -1), target - before if direct else target
