"""Sufficient statistics of MLP neurons, attention heads, whole layers and, where asked, every linear layer, by forward hooks.

Sums are stored, not scores (design habit 4), so that a new criterion needs no new pass. Names in :meth:`Recorder.statistics`:

* ``count``: tokens seen, int64 scalar;
* ``layers.{i}.mlp.abs_sum``, ``.sum``, ``.square_sum``, ``.abs_max``: Σ|a|, Σa, Σa², max|a| of the activation a that the
  MLP's output projection reads, float64 (intermediate_size,);
* ``layers.{i}.heads.square_sum``: Σ‖o‖² of each head's output, float64 (num_attention_heads,);
* ``layers.{i}.block.cosine_sum``: Σ cos(hidden state into the layer, hidden state out of it) over the tokens, float64 scalar;
  1 − cosine_sum / count is the layer's block influence (ShortGPT, arXiv 2403.03853);
* ``linear.{module}.input_abs_sum``, ``.output_abs_sum``, ``.output_minus_bias_abs_sum``: Σ|x|, Σ|y|, Σ|y − b| of a linear
  layer, float64, for the paper's linear rule.

Calibration text is packed, so there is no padding that could count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers.pytorch_utils import Conv1D

from minigpts.model.spec import ArchitectureSpec

# On a CPU a batch is added up in blocks of this many rows, element by element, into accumulators of the same shape, which stay
# in the cache and are reduced once, at the end. Reducing every batch over its rows costs half as much again. On a GPU, where
# what counts is how many kernels are launched, a batch is reduced at once, into the accumulators' first row.
BLOCK_ROWS = 64


def add_squares(accumulator: Tensor, rows: Tensor) -> None:
    """Add the squares of ``rows`` (tokens, units) to ``accumulator``, float32 (BLOCK_ROWS, units), whose sum over rows counts."""
    if rows.is_cuda:
        accumulator[0] += torch.linalg.vector_norm(rows, dim=0).square_()
        return
    for block in rows.split(BLOCK_ROWS):
        accumulator[: len(block)].addcmul_(block, block)


class NeuronSums:
    """Σ|a|, Σa, Σa² and max|a| per column of everything it is shown."""

    def __init__(self) -> None:
        """Sizes are learnt from the first batch."""
        self.accumulators: Tensor | None = None  # float32 (4, BLOCK_ROWS, features): |a|, a, a², max|a|
        self.buffer: Tensor | None = None

    def update(self, activations: Tensor) -> None:
        """Add a batch, (..., features)."""
        rows = activations.reshape(-1, activations.shape[-1]).float()
        if self.accumulators is None or self.buffer is None:
            self.accumulators = torch.zeros(4, BLOCK_ROWS, rows.shape[1], device=rows.device)
            self.buffer = torch.empty(BLOCK_ROWS, rows.shape[1], device=rows.device)
        if rows.is_cuda:
            norms = [torch.linalg.vector_norm(rows, order, dim=0) for order in (1, 2, math.inf)]
            self.accumulators[:3, 0] += torch.stack([norms[0], rows.sum(0), norms[1].square_()])
            torch.maximum(self.accumulators[3, 0], norms[2], out=self.accumulators[3, 0])
            return
        for block in rows.split(BLOCK_ROWS):
            abs_sum, signed_sum, square_sum, abs_max = self.accumulators[:, : len(block)]
            magnitudes = torch.abs(block, out=self.buffer[: len(block)])
            abs_sum.add_(magnitudes)
            torch.maximum(abs_max, magnitudes, out=abs_max)
            signed_sum.add_(block)
            square_sum.addcmul_(block, block)

    def statistics(self) -> dict[str, Tensor]:
        """float64 (features,) each."""
        assert self.accumulators is not None, "no batch was seen"
        sums = dict(zip(("abs_sum", "sum", "square_sum"), self.accumulators[:3].sum(1, dtype=torch.float64), strict=True))
        return {**sums, "abs_max": self.accumulators[3].amax(0).double()}


def cosine_sum(entering: Tensor, leaving: Tensor) -> Tensor:
    """Σ cos(x, y) over the tokens of two hidden states, (..., hidden_size) each; float64 scalar."""
    entering, leaving = entering.float(), leaving.float()
    norms = torch.linalg.vector_norm(entering, dim=-1) * torch.linalg.vector_norm(leaving, dim=-1)
    # vecdot is a third of the time that einsum or cosine_similarity take.
    cosines = torch.linalg.vecdot(entering, leaving) / norms.clamp_min(torch.finfo(torch.float32).tiny)
    return cosines.sum(dtype=torch.float64)


class Recorder:
    """Watches a model's forward passes through hooks; see :func:`recording`."""

    def __init__(self, model: nn.Module, spec: ArchitectureSpec, all_linear: bool) -> None:
        """Register the hooks on ``model``."""
        self.count = 0
        self.neurons: dict[int, NeuronSums] = {}
        self.heads: dict[int, Tensor] = {}  # Σo² per channel of the heads' output, float32 (BLOCK_ROWS, num_heads · head_dim)
        self.cosine_sums: dict[int, Tensor] = {}
        self.linears: dict[str, dict[str, Tensor]] = {}
        self.num_heads: int = model.config.num_attention_heads  # type: ignore[union-attr, assignment]
        self.handles = []
        layers = cast(nn.ModuleList, model.get_submodule(spec.layers))
        for index, layer in enumerate(layers):
            self.neurons[index] = NeuronSums()
            mlp_out = model.get_submodule(spec.layer(index, spec.mlp_out))
            attention_out = model.get_submodule(spec.layer(index, spec.attention_out))
            self.handles.append(mlp_out.register_forward_pre_hook(self._neuron_hook(index)))
            self.handles.append(attention_out.register_forward_pre_hook(self._head_hook(index)))
            self.handles.append(layer.register_forward_hook(self._block_hook(index), with_kwargs=True))
        if all_linear:
            for name, module in layers.named_modules(prefix=spec.layers):
                if isinstance(module, nn.Linear | Conv1D):
                    self.handles.append(module.register_forward_hook(self._linear_hook(name)))

    def _neuron_hook(self, index: int):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.neurons[index].update(inputs[0])
            if index == 0:  # every layer sees the same tokens
                self.count += inputs[0].numel() // inputs[0].shape[-1]

        return hook

    def _head_hook(self, index: int):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
            if index not in self.heads:
                self.heads[index] = torch.zeros(BLOCK_ROWS, rows.shape[1], device=rows.device)
            add_squares(self.heads[index], rows)

        return hook

    def _block_hook(self, index: int):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Any], output: Tensor | tuple[Tensor, ...]) -> None:
            entering = inputs[0] if inputs else named["hidden_states"]
            leaving = output if isinstance(output, Tensor) else output[0]
            self.cosine_sums[index] = self.cosine_sums.get(index, 0) + cosine_sum(entering, leaving)

        return hook

    def _linear_hook(self, name: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Linear | Conv1D, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            unbiased = output if module.bias is None else output - module.bias
            seen = {"input_abs_sum": inputs[0], "output_abs_sum": output, "output_minus_bias_abs_sum": unbiased}
            sums = self.linears.setdefault(name, {})
            for key, value in seen.items():
                total = value.reshape(-1, value.shape[-1]).abs().sum(0, dtype=torch.float64)
                sums[key] = sums[key] + total if key in sums else total

        return hook

    def statistics(self) -> dict[str, Tensor]:
        """Everything gathered so far, on the CPU, by the names of the module's docstring."""
        found = {"count": torch.tensor(self.count)}
        for index, neuron in self.neurons.items():
            found |= {f"layers.{index}.mlp.{key}": value for key, value in neuron.statistics().items()}
            squares = self.heads[index].sum(0, dtype=torch.float64)  # (num_heads · head_dim,)
            found[f"layers.{index}.heads.square_sum"] = squares.view(self.num_heads, -1).sum(1)
            found[f"layers.{index}.block.cosine_sum"] = self.cosine_sums[index]
        for name, sums in self.linears.items():
            found |= {f"linear.{name}.{key}": value for key, value in sums.items()}
        return {name: tensor.cpu() for name, tensor in found.items()}


@contextmanager
def recording(model: nn.Module, spec: ArchitectureSpec, all_linear: bool = False) -> Iterator[Recorder]:
    """Record the statistics of every forward pass inside the block."""
    recorder = Recorder(model, spec, all_linear)
    try:
        yield recorder
    finally:
        for handle in recorder.handles:
            handle.remove()


@torch.inference_mode()
def profile(
    model: nn.Module, spec: ArchitectureSpec, tokens: Tensor, batch_rows: int, all_linear: bool = False
) -> dict[str, Tensor]:
    """Run packed ``tokens`` (sequences, length) through the decoder, without its lm_head, and give the statistics.

    ``batch_rows`` sequences go through at a time; it changes memory and speed, not the result.
    """
    decoder = model.get_submodule(spec.decoder)
    with recording(model, spec, all_linear) as recorder, tqdm(total=tokens.numel(), desc="profile", unit="token") as bar:
        for batch in tokens.split(batch_rows):
            decoder(input_ids=batch, use_cache=False)
            bar.update(batch.numel())
    return recorder.statistics()
