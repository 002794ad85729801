"""First-order Taylor importance: what the loss would change by if an MLP neuron or an attention head fell silent at a token.

Silencing a neuron whose activation is a and whose gradient is g = ∂L/∂a changes the loss by −g·a to first order (Molchanov et
al., "Importance Estimation for Neural Network Pruning", arXiv 1906.10771, method TaylorFO at a gate, here a gate for every
token, so that what one token gains can't hide what another loses). L is the next-token cross-entropy *summed* over the
tokens, in nats: no token's share of it depends on how many others are in its batch. Sums stored, beside the recorder's:

* ``gradient_count``: tokens seen, int64 scalar;
* ``layers.{i}.mlp.taylor_sum``: Σ_t (g·a)² of the activation a that the MLP's output projection reads, nats², float64
  (intermediate_size,);
* ``layers.{i}.heads.taylor_sum``: Σ_t (Σ_c g_c·o_c)² over the channels c of each head's output o, nats², float64
  (num_attention_heads,).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from tqdm import tqdm
from transformers import PreTrainedModel

from minigpts.model.loss import fused_loss
from minigpts.model.spec import ArchitectureSpec
from minigpts.profiling.recorder import BLOCK_ROWS, add_squares

# A graph keeps what every layer computes, a plain forward one layer's: it is built over this part of a forward batch at a time.
GRAPH_SHARE = 8


class TaylorSums:
    """Σ_t (Σ_c g_c·x_c)² per unit of everything that enters a module; a unit is ``features // num_units`` channels c."""

    def __init__(self, num_units: int, module: nn.Module) -> None:
        """Watch ``module`` until ``handle`` is removed."""
        self.accumulator = torch.zeros(BLOCK_ROWS, num_units, device=next(module.parameters()).device)
        self.handle: RemovableHandle = module.register_forward_pre_hook(self._wait_for_gradient)

    def _wait_for_gradient(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].detach()  # a hook that held the graph it hangs on would keep it alive
        inputs[0].register_hook(lambda gradient: self.update(gradient, values))

    def update(self, gradients: Tensor, values: Tensor) -> None:
        """Add a batch, (..., features) each."""
        rows = [tensor.reshape(-1, tensor.shape[-1]).float() for tensor in (gradients, values)]
        # On a CPU in blocks that stay in the cache, on a GPU at once, as the recorder adds up.
        blocks = [rows] if gradients.is_cuda else zip(*(tensor.split(BLOCK_ROWS) for tensor in rows), strict=True)
        for gradient, value in blocks:
            change = (gradient * value).view(len(value), self.accumulator.shape[1], -1).sum(2)  # nats, (rows, num_units)
            add_squares(self.accumulator, change)

    def statistics(self) -> Tensor:
        """The sums, float64 (num_units,), on the CPU."""
        return self.accumulator.sum(0, dtype=torch.float64).cpu()


def taylor_sums(model: PreTrainedModel, spec: ArchitectureSpec, tokens: Tensor, batch_rows: int) -> dict[str, Tensor]:
    """Run packed ``tokens`` (sequences, length) forwards and backwards and give the sums, by the names of the module's docstring.

    Every label counts. ``batch_rows`` sequences make a forward batch; it changes memory and speed, not the result.
    """
    sums = {}
    for index in range(model.config.num_hidden_layers):
        mlp_out, attention_out = (model.get_submodule(spec.layer(index, name)) for name in (spec.mlp_out, spec.attention_out))
        width = mlp_out.weight.shape[spec.input_axis]
        sums[f"layers.{index}.mlp.taylor_sum"] = TaylorSums(width, mlp_out)
        sums[f"layers.{index}.heads.taylor_sum"] = TaylorSums(model.config.num_attention_heads, attention_out)
    bar = tqdm(total=tokens.numel(), desc="gradients", unit="token")
    try:
        with _learning_nothing(model), fused_loss(model), bar:
            for batch in tokens.split(max(batch_rows // GRAPH_SHARE, 1)):
                model(input_ids=batch, labels=batch, num_items_in_batch=1, use_cache=False).loss.backward()
                bar.update(batch.numel())
    finally:
        for units in sums.values():
            units.handle.remove()
    return {"gradient_count": torch.tensor(tokens.numel()), **{name: units.statistics() for name, units in sums.items()}}


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
