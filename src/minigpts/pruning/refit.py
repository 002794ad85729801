"""Making up for the neurons that went, in closed form, without training.

``bias``: what the dropped neurons wrote on average is folded into the output projection's bias (FLAP, arXiv 2312.11983).

``least_squares``: the MLP's output projection of each layer is refitted, first layer to last, on the inputs that the already
pruned layers before it really give. Its target is the parent's own residual stream behind the layer, so that what earlier
cuts (removed heads and layers included) and this layer's attention got wrong is made up for too. Where a norm stands
between the projection and the stream (Gemma 2 and 3, OPT-350m), the target is what the parent's projection gives there.

In memory are two residual streams of the calibration text (three where there is such a norm), one decoder layer, and one
layer's sums: never a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import torch
from scipy.linalg import cho_factor, cho_solve
from torch import Tensor, nn
from tqdm import tqdm

from minigpts import checkpoint
from minigpts.architectures.spec import ArchitectureSpec
from minigpts.errors import UserError
from minigpts.pruning.slicing import AttentionShape, LayerCut, slice_layer
from minigpts.runtime import keep_large_blocks_apart

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Strength of the pull towards the weights as they were, relative to the mean square of the layer's inputs.
RIDGE = 1e-2

BLOCK_COLUMNS = 1024  # of the activations, multiplied at a time: the fp32 product of all would be half a Gram matrix more

Call = tuple[tuple[Any, ...], dict[str, Any]]  # a decoder layer's arguments besides the hidden states


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
    stored: checkpoint.StoredWeights,
    parent: PreTrainedConfig,
    child: PreTrainedConfig,
    spec: ArchitectureSpec,
    cuts: Sequence[LayerCut],
    attention: AttentionShape,
    tokens: Tensor,
    batch_rows: int,
    ridge: float = RIDGE,
) -> Iterator[Tensor]:
    """Yield the refitted weight of each of the child's output projections, of the child's dtype, first layer to last.

    ``stored`` holds the parent; ``parent`` and ``child`` are the configs; ``attention`` is the parent's; ``tokens``
    (sequences, length) are the packed calibration text, of which ``batch_rows`` sequences go through at a time.
    """
    keep_large_blocks_apart()
    where = tokens.device
    parents = _layers_of(parent, spec)
    children = _layers_of(child, spec)
    parent_stream, calls = _first_hidden_states(parent, spec, stored, tokens, batch_rows)
    child_stream = list(parent_stream)
    positions = {cut.index: position for position, cut in enumerate(cuts)}
    adds_to_stream: bool | None = None
    for index in tqdm(range(len(parents)), desc="refit", unit="layer"):
        layer_calls = [batch[index] for batch in calls]
        name = f"{spec.layers}.{index}"
        with _filled(parents[index], stored.under(name), where) as layer:
            mlp_out = cast(nn.Linear, layer.get_submodule(spec.mlp_out))
            if adds_to_stream is None:
                adds_to_stream = _adds_to_stream(layer, mlp_out, parent_stream[0], layer_calls[0])
            goals: list[Tensor] = []
            with nullcontext() if adds_to_stream else _outputs_of(mlp_out, goals):
                _advance(layer, parent_stream, layer_calls)
            goals = goals or parent_stream
        if index not in positions:
            continue
        position = positions[index]
        with _filled(children[position], slice_layer(stored.under(name), spec, cuts[position], attention), where) as layer:
            mlp_out = cast(nn.Linear, layer.get_submodule(spec.mlp_out))
            samples = _samples(layer, mlp_out, child_stream, layer_calls, goals, adds_to_stream)
            refit_projection(mlp_out, spec.transposed, samples, ridge)
            _advance(layer, child_stream, layer_calls)
            refitted = mlp_out.weight.to("cpu", child.dtype, copy=True)
        yield refitted


def _layers_of(config: PreTrainedConfig, spec: ArchitectureSpec) -> nn.ModuleList:
    """The decoder layers of an empty model."""
    return cast(nn.ModuleList, checkpoint.empty_model(config, torch.float32).get_submodule(spec.layers))


@contextmanager
def _filled(module: nn.Module, tensors: Mapping[str, Tensor], device: torch.device) -> Iterator[nn.Module]:
    """Inside, the empty ``module`` holds ``tensors`` in fp32 on ``device``."""
    values = {name: tensor.to(device, torch.float32, copy=True) for name, tensor in tensors.items()}
    module.load_state_dict(values, assign=True)
    del values, tensors  # as long as one of these lives, the file it was read from stays mapped
    module.to(device)  # its buffers
    try:
        yield module
    finally:
        module.to("meta")


class _CallRecorder(nn.Module):
    """Stands for a decoder layer: hands its input on, and keeps the other arguments that it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.call: Call = (), {}

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The input."""
        self.hidden, self.call = hidden, (args, kwargs)
        return hidden


def _first_hidden_states(
    config: PreTrainedConfig, spec: ArchitectureSpec, stored: checkpoint.StoredWeights, tokens: Tensor, batch_rows: int
) -> tuple[list[Tensor], list[list[Call]]]:
    """What the whole decoder would hand to its layers for each batch of ``tokens``: the first one's hidden states, and every
    layer's arguments besides (masks, rotary tables)."""
    model = checkpoint.empty_model(config, torch.float32)
    owner, _, attribute = spec.layers.rpartition(".")
    recorders = [_CallRecorder() for _ in range(config.num_hidden_layers)]
    setattr(model.get_submodule(owner), attribute, nn.ModuleList(recorders))
    prefix, layers = f"{spec.decoder}.", f"{spec.layers}."
    tensors = {
        name.removeprefix(prefix): stored[name] for name in stored.shapes if name.startswith(prefix) and not name.startswith(layers)
    }
    streams, calls = [], []
    of_shape: dict[torch.Size, list[Call]] = {}  # batches of one shape have equal masks and tables: they are kept once
    with _filled(model.get_submodule(spec.decoder), tensors, tokens.device) as decoder:
        for batch in tokens.split(batch_rows):
            decoder(input_ids=batch, use_cache=False)
            streams.append(recorders[0].hidden)
            calls.append(of_shape.setdefault(batch.shape, [recorder.call for recorder in recorders]))
    return streams, calls


def _advance(layer: nn.Module, stream: list[Tensor], calls: Sequence[Call]) -> None:
    """Replace each batch of the stream by what the layer makes of it."""
    for batch, (args, kwargs) in enumerate(calls):
        stream[batch] = layer(stream[batch], *args, **kwargs)


@contextmanager
def _outputs_of(module: nn.Module, outputs: list[Tensor]) -> Iterator[None]:
    """Inside, what the module gives is appended to ``outputs``."""
    handle = module.register_forward_hook(lambda _, inputs, output: outputs.append(output))
    try:
        yield
    finally:
        handle.remove()


def _without_mlp(layer: nn.Module, mlp_out: nn.Linear, hidden: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    """What the layer gives when its MLP writes nothing, and what ``mlp_out`` is given meanwhile."""
    caught: list[Tensor] = []

    def silence(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        caught.append(inputs[0])
        return torch.zeros_like(output)

    args, kwargs = call
    handle = mlp_out.register_forward_hook(silence)
    try:
        return layer(hidden, *args, **kwargs), caught[0]
    finally:
        handle.remove()


def _adds_to_stream(layer: nn.Module, mlp_out: nn.Linear, hidden: Tensor, call: Call) -> bool:
    """Whether the layer gives what it gives without its MLP, plus what its MLP writes: not so with a norm in between."""
    args, kwargs = call
    before, activations = _without_mlp(layer, mlp_out, hidden, call)
    after = layer(hidden, *args, **kwargs)
    return torch.allclose(before + mlp_out(activations).view_as(before), after, rtol=1e-3, atol=1e-3 * float(after.std()))


def _samples(
    layer: nn.Module, mlp_out: nn.Linear, stream: list[Tensor], calls: Sequence[Call], goals: list[Tensor], adds_to_stream: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Per batch, what the child's ``mlp_out`` is given (tokens, I) and should write (tokens, H)."""
    for hidden, call, goal in zip(stream, calls, goals, strict=True):
        before, activations = _without_mlp(layer, mlp_out, hidden, call)
        target = goal - before if adds_to_stream else goal
        yield activations.flatten(0, -2), target.flatten(0, -2)


def refit_projection(mlp_out: nn.Linear, transposed: bool, samples: Iterable[tuple[Tensor, Tensor]], ridge: float) -> None:
    """Fit the weight of a linear layer, in place, to write the targets of ``samples`` given their inputs; its bias stays."""
    weight = mlp_out.weight.T if transposed else mlp_out.weight  # (H, I); a view, written to below
    gram = torch.zeros(weight.shape[1], weight.shape[1], dtype=torch.float64, device=weight.device)
    cross = torch.zeros(weight.shape, dtype=torch.float64, device=weight.device)
    for activations, target in samples:
        if mlp_out.bias is not None:
            target = target - mlp_out.bias
        for start in range(0, len(gram), BLOCK_COLUMNS):
            block = slice(start, start + BLOCK_COLUMNS)
            gram[block] += activations[:, block].T @ activations
        cross += target.T @ activations
    weight.copy_(solve(gram, cross, weight, ridge))


def solve(gram: Tensor, cross: Tensor, weight: Tensor, ridge: float = RIDGE) -> Tensor:
    """argmin_W Σ‖t − W a‖² + λ‖W − weight‖², from Σ a aᵀ (I, I) and Σ t aᵀ (H, I), which are used up; λ = ridge · mean
    diagonal. (H, I)

    Pulling towards the parent's weights instead of zero leaves directions that the text doesn't show as they were.
    """
    strength = ridge * gram.diagonal().mean().clamp_min(torch.finfo(gram.dtype).tiny)
    gram.diagonal().add_(strength)
    cross.add_(weight, alpha=float(strength))
    # SciPy factors and solves in place (of column-major arrays, which the transposes are); torch would copy both.
    factor = cho_factor(gram.cpu().numpy().T, lower=True, overwrite_a=True, check_finite=False)
    return torch.from_numpy(cho_solve(factor, cross.cpu().numpy().T, overwrite_b=True, check_finite=False).T)
