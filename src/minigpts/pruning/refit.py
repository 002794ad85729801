"""Making up for the neurons that went, in closed form, without training.

``bias``: what the dropped neurons wrote on average is folded into the output projection's bias (FLAP, arXiv 2312.11983).

``least_squares``: the output projection of each layer is refitted, first layer to last, so that the pruned model's residual
stream meets the parent's. Layer i sees the inputs that the already pruned layers before it really give, and its target is the
parent's own residual stream behind layer i, so that what earlier cuts and this layer's attention got wrong is made up for too.
In memory are one layer's activations and two residual streams of the calibration text, never a second model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from minigpts.architectures.spec import ArchitectureSpec

# Strength of the pull towards the weights as they were, relative to the mean square of the layer's inputs.
RIDGE = 1e-2


def fold_means(weight_out: Tensor, bias_out: Tensor, mean: Tensor, keep: Tensor) -> Tensor:
    """The output projection's bias once the neurons outside ``keep`` are replaced by their mean. (hidden_size,)

    ``weight_out`` (hidden_size, I) and ``mean`` (I,) are of the uncut layer.
    """
    dropped = torch.ones(len(mean), dtype=torch.bool)
    dropped[keep] = False
    return (bias_out.double() + weight_out[:, dropped].double() @ mean[dropped].double()).to(bias_out.dtype)


class LayerCalls:
    """Runs single decoder layers with the arguments that the whole decoder would give them (masks, rotary tables)."""

    def __init__(self, decoder: nn.Module, layers: nn.ModuleList) -> None:
        """``layers`` are the decoder's own."""
        self.decoder, self.layers = decoder, layers

    def prepare(self, tokens: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
        """The first layer's hidden states for ``tokens`` (sequences, length), and every layer's keyword arguments.

        The layers' own work is skipped meanwhile: each hands its input on.
        """
        inputs: list[Tensor] = []
        arguments: list[dict[str, Any]] = []

        def passing_on(hidden: Tensor, **kwargs: Any) -> Tensor:
            inputs.append(hidden)
            arguments.append(kwargs)
            return hidden

        originals = [layer.forward for layer in self.layers]
        try:
            for layer in self.layers:
                layer.forward = passing_on  # type: ignore[assignment]
            self.decoder(input_ids=tokens, use_cache=False)
        finally:
            for layer, original in zip(self.layers, originals, strict=True):
                layer.forward = original  # type: ignore[assignment]
        return inputs[0], arguments


@contextmanager
def _output_silenced(module: nn.Module, receive: Callable[[Tensor], None]) -> Iterator[None]:
    """Inside, ``module`` gives zeros and hands its input to ``receive``: the layer around it yields the residual before it."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        receive(inputs[0])
        return torch.zeros_like(output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def solve(gram: Tensor, cross: Tensor, weight: Tensor, ridge: float = RIDGE) -> Tensor:
    """argmin_W Σ‖t − W a‖² + λ‖W − weight‖², from Σ a aᵀ (I, I) and Σ t aᵀ (H, I); λ = ridge · mean diagonal. (H, I)

    Pulling towards the parent's weights instead of zero leaves directions that the text doesn't show as they were.
    """
    strength = ridge * gram.diagonal().mean().clamp_min(torch.finfo(gram.dtype).tiny)
    system = gram + strength * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.cholesky_solve((cross + strength * weight).T, torch.linalg.cholesky(system)).T


@torch.inference_mode()
def least_squares(
    model: nn.Module, spec: ArchitectureSpec, kept: Sequence[Tensor], tokens: Tensor, batch_rows: int, ridge: float = RIDGE
) -> None:
    """Cut ``model``'s MLPs to ``kept`` in place, layer by layer, refitting each output projection to the parent.

    ``tokens`` (sequences, length) are the packed calibration text; ``batch_rows`` sequences go through at a time.
    """
    layers = model.get_submodule(spec.layers)
    calls = LayerCalls(model.get_submodule(spec.decoder), layers)  # type: ignore[arg-type]
    batches = [calls.prepare(batch) for batch in tokens.split(batch_rows)]
    parent = [hidden for hidden, _ in batches]
    child = [hidden.clone() for hidden in parent]
    for index in tqdm(range(len(kept)), desc="refit", unit="layer"):
        layer = layers[index]  # type: ignore[index]
        arguments = [batch_arguments[index] for _, batch_arguments in batches]
        parent = [layer(hidden, **kwargs) for hidden, kwargs in zip(parent, arguments, strict=True)]
        cut_layer(model, spec, index, kept[index])
        mlp_out = cast(nn.Linear, model.get_submodule(spec.layer(index, spec.mlp_out)))
        seen = [_before_and_inside(layer, mlp_out, hidden, kwargs) for hidden, kwargs in zip(child, arguments, strict=True)]
        _refit_projection(mlp_out, parent, seen, ridge)
        child = [before + mlp_out(activations).view_as(before) for before, activations in seen]


def _before_and_inside(layer: nn.Module, mlp_out: nn.Module, hidden: Tensor, arguments: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The residual stream in front of the layer's MLP output, attention included, and what ``mlp_out`` would read."""
    caught: list[Tensor] = []
    with _output_silenced(mlp_out, caught.append):
        before = layer(hidden, **arguments)
    return before, caught[0]


def _refit_projection(mlp_out: nn.Linear, parent: list[Tensor], seen: list[tuple[Tensor, Tensor]], ridge: float) -> None:
    """Fit ``mlp_out`` to what the parent's residual stream holds beyond the child's own, in place."""
    weight = mlp_out.weight
    gram = torch.zeros(weight.shape[1], weight.shape[1], dtype=torch.float64, device=weight.device)
    cross = torch.zeros(weight.shape, dtype=torch.float64, device=weight.device)
    for goal, (before, inside) in zip(parent, seen, strict=True):
        activations = inside.reshape(-1, weight.shape[1])
        target = (goal - before).reshape(-1, weight.shape[0])
        if mlp_out.bias is not None:
            target = target - mlp_out.bias
        gram += activations.T @ activations
        cross += target.T @ activations
    weight.copy_(solve(gram, cross, weight.double(), ridge))


def cut_layer(model: nn.Module, spec: ArchitectureSpec, index: int, keep: Tensor) -> None:
    """Cut one layer's linear modules to the neurons ``keep``, in place."""
    for name in (*spec.mlp_in, spec.mlp_out):
        module = cast(nn.Linear, model.get_submodule(spec.layer(index, name)))
        dim = 1 if name == spec.mlp_out else 0
        module.weight = nn.Parameter(module.weight.index_select(dim, keep), requires_grad=False)
        if dim == 0 and module.bias is not None:
            module.bias = nn.Parameter(module.bias[keep], requires_grad=False)
        module.out_features, module.in_features = module.weight.shape
