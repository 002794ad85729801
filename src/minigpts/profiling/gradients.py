"""First-order Taylor importance: what the loss would change by if an MLP neuron or an attention head fell silent at a token.

Silencing a neuron whose activation is a and whose gradient is g = ∂L/∂a changes the loss by −g·a to first order (Molchanov et
al., "Importance Estimation for Neural Network Pruning", arXiv 1906.10771, method TaylorFO at a gate, here a gate for every
token, so that what one token gains can't hide what another loses). L is the next-token cross-entropy *summed* over the
tokens, in nats: no token's share of it depends on how many others are in its batch. The names of the sums are in
:mod:`minigpts.profiling.statistics`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from tqdm import tqdm
from transformers import PreTrainedModel

from minigpts import ranks
from minigpts.model.loss import fused_loss
from minigpts.model.spec import ArchitectureSpec
from minigpts.profiling.recorder import Sums, as_rows, blocks, row_blocks
from minigpts.profiling.statistics import GRADIENT_COUNT, heads_name, mlp_name


class TaylorSums:
    """Σ_t (Σ_c g_c·x_c)² per unit of everything that enters a module; a unit is ``features // num_units`` channels c."""

    def __init__(self, name: str, num_units: int, module: nn.Module, sums: Sums) -> None:
        """Watch ``module`` until ``handle`` is removed, and add to ``sums``."""
        self.name, self.num_units, self.sums = name, num_units, sums
        self.handle: RemovableHandle = module.register_forward_pre_hook(self._wait_for_gradient)

    def _wait_for_gradient(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].detach()  # a hook that held the graph it hangs on would keep it alive
        inputs[0].register_hook(lambda gradient: self.update(as_rows(gradient), as_rows(values)))

    def update(self, gradients: Tensor, values: Tensor) -> None:
        """Add float32 rows, (tokens, features) each."""
        for gradient, value in zip(row_blocks(gradients), row_blocks(values), strict=True):
            change = (gradient * value).view(len(value), self.num_units, -1).sum(2)  # nats, (rows, num_units)
            self.sums.add((self.name,), change.square_().sum(0)[None])


def taylor_sums(model: PreTrainedModel, spec: ArchitectureSpec, tokens: Tensor) -> dict[str, Tensor]:
    """Run packed ``tokens`` (sequences, length) forwards and backwards and give the Taylor sums by name. Every label counts.

    Several processes share the work as they share :func:`minigpts.profiling.recorder.profile`'s.
    """
    sums, watched, modules = Sums(), list[TaylorSums](), dict(model.named_modules())
    for index in range(model.config.num_hidden_layers):
        if spec.mlp_out:
            mlp_out = model.get_submodule(spec.layer(index, spec.mlp_out))
            width = mlp_out.weight.shape[spec.input_axis]
            watched.append(TaylorSums(mlp_name(index, "taylor_sum"), width, mlp_out, sums))
        attention_out = modules.get(spec.layer(index, spec.attention_out))
        if attention_out is not None:
            watched.append(TaylorSums(heads_name(index, "taylor_sum"), model.config.num_attention_heads, attention_out, sums))

    batches = blocks(tokens)
    bar = tqdm(total=sum(batch.numel() for batch in ranks.share(batches)), desc="gradients", unit="token")

    def run(batch: Tensor) -> None:
        model(input_ids=batch, labels=batch, num_items_in_batch=1, use_cache=False).loss.backward()
        bar.update(batch.numel())

    try:
        with _learning_nothing(model), fused_loss(model), bar:
            sums.over(batches, run)
    finally:
        for units in watched:
            units.handle.remove()
    return {GRADIENT_COUNT: torch.tensor(tokens.numel()), **sums.by_name()}


@contextmanager
def _learning_nothing(model: PreTrainedModel) -> Iterator[None]:
    """Within the block, activations have gradients and parameters have none, which spares their half of a backward pass."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    model.enable_input_require_grads()
    try:
        yield
    finally:
        model.disable_input_require_grads()
        for parameter in learning:
            parameter.requires_grad_(True)
