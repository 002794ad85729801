"""Sufficient statistics of MLP neurons, attention heads and, where asked, every linear layer, gathered by forward hooks.

Sums are stored, not scores (design habit 4), so that a new criterion needs no new pass. Names in :meth:`Recorder.statistics`:

* ``count``: tokens seen, int64 scalar;
* ``layers.{i}.mlp.abs_sum``, ``.sum``, ``.square_sum``, ``.abs_max``: Σ|a|, Σa, Σa², max|a| of the activation a that the
  MLP's output projection reads, float64 (intermediate_size,);
* ``layers.{i}.heads.square_sum``: Σ‖o‖² of each head's output, float64 (num_attention_heads,);
* ``linear.{module}.input_abs_sum``, ``.output_abs_sum``, ``.output_minus_bias_abs_sum``: Σ|x|, Σ|y|, Σ|y − b| of a linear
  layer, float64, for the paper's linear rule.

Calibration text is packed, so there is no padding that could count.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from tqdm import tqdm

from minigpts.architectures.spec import ArchitectureSpec

# Rows reduced at a time. Four reductions of a whole batch would each stream it from memory (2.7 % of the forward on the
# machine this was measured on); blocks that stay in the cache cost a third of that.
BLOCK_ROWS = 256


class NeuronSums:
    """Σ|a|, Σa, Σa² and max|a| per column of everything it is shown."""

    def __init__(self) -> None:
        """Sizes are learnt from the first batch."""
        self.sums: Tensor | None = None  # float64 (3, features): Σ|a|, Σa, Σa²
        self.abs_max: Tensor | None = None
        self.buffer: Tensor | None = None

    def update(self, activations: Tensor) -> None:
        """Add a batch, (..., features)."""
        rows = activations.reshape(-1, activations.shape[-1]).float()
        if self.sums is None or self.abs_max is None or self.buffer is None:
            self.sums = torch.zeros(3, rows.shape[1], dtype=torch.float64, device=rows.device)
            self.abs_max = torch.zeros(rows.shape[1], device=rows.device)
            self.buffer = torch.empty(BLOCK_ROWS, rows.shape[1], device=rows.device)
        for block in rows.split(BLOCK_ROWS):
            buffer = self.buffer[: len(block)]
            torch.abs(block, out=buffer)
            torch.maximum(self.abs_max, buffer.amax(0), out=self.abs_max)
            self.sums[0] += buffer.sum(0)
            self.sums[1] += block.sum(0)
            torch.mul(block, block, out=buffer)
            self.sums[2] += buffer.sum(0)


class Recorder:
    """Watches a model's forward passes through hooks; see :func:`recording`."""

    def __init__(self, model: nn.Module, spec: ArchitectureSpec, all_linear: bool) -> None:
        """Register the hooks on ``model``."""
        self.count = 0
        self.neurons: dict[int, NeuronSums] = {}
        self.heads: dict[int, Tensor] = {}
        self.linears: dict[str, dict[str, Tensor]] = {}
        self.num_heads = getattr(model.config, spec.num_heads_field)  # type: ignore[arg-type]
        self.handles = []
        layers = model.get_submodule(spec.layers)
        for index in range(len(layers)):  # type: ignore[arg-type]
            self.neurons[index] = NeuronSums()
            mlp_out = model.get_submodule(spec.layer(index, spec.mlp_out))
            attention_out = model.get_submodule(spec.layer(index, spec.attention_out))
            self.handles.append(mlp_out.register_forward_pre_hook(self._neuron_hook(index)))
            self.handles.append(attention_out.register_forward_pre_hook(self._head_hook(index)))
        if all_linear:
            for name, module in layers.named_modules(prefix=spec.layers):
                if isinstance(module, nn.Linear):
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
            squares = sum((block * block).sum(0) for block in rows.split(BLOCK_ROWS))  # (num_heads · head_dim,)
            per_head = squares.view(self.num_heads, -1).sum(1, dtype=torch.float64)  # type: ignore[union-attr]
            self.heads[index] = self.heads[index] + per_head if index in self.heads else per_head

        return hook

    def _linear_hook(self, name: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
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
            assert neuron.sums is not None and neuron.abs_max is not None, "no batch was seen"
            for row, key in enumerate(("abs_sum", "sum", "square_sum")):
                found[f"layers.{index}.mlp.{key}"] = neuron.sums[row].clone()
            found[f"layers.{index}.mlp.abs_max"] = neuron.abs_max.double()
            found[f"layers.{index}.heads.square_sum"] = self.heads[index]
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
