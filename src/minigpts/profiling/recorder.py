"""Sufficient statistics of MLP neurons, experts, attention heads, whole layers and, where asked, every linear layer, by hooks.

What is summed, and under which names, is told in :mod:`minigpts.profiling.statistics`. Calibration text is packed, so there is
no padding that could count.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers.pytorch_utils import Conv1D

from minigpts.model.spec import ArchitectureSpec
from minigpts.profiling.statistics import (
    COUNT,
    ExpertSum,
    LinearSum,
    cosine_name,
    experts_name,
    heads_name,
    linear_name,
    mlp_name,
)

# Tokens that go through the model at once: as many sequences as fit, one at least. Fixed, because the last bits of a matrix
# product depend on its shape: so neither the machine nor runtime.batch_tokens shows in the statistics. On one CPU core 512 are
# as fast as 2048 (233 and 200 tokens/s, SmolLM2-135M on an AMD EPYC), and what a hook reads is still in the cache.
BLOCK_TOKENS = 512

# Activations are summed in fp32 over so many rows at most, pairwise as torch sums, and from there on in fp64. On a CPU a block
# stays in the cache; on a GPU, where what counts is how many kernels are launched, a batch is summed at once.
BLOCK_ROWS = 256


def blocks(tokens: Tensor) -> tuple[Tensor, ...]:
    """Packed ``tokens`` (sequences, length) in the batches that every profiling pass runs, whatever the machine."""
    return tokens.split(max(BLOCK_TOKENS // tokens.shape[1], 1))


def row_blocks(rows: Tensor) -> tuple[Tensor, ...]:
    """``rows`` (tokens, features) in the parts that are summed at a time."""
    return rows.split(len(rows) if rows.is_cuda else BLOCK_ROWS)


class NeuronSums:
    """Σ|a|, Σa and Σa² per column of everything it is shown."""

    def __init__(self, features: int, device: torch.device) -> None:
        """Nothing was seen."""
        self.totals = torch.zeros(3, features, dtype=torch.float64, device=device)
        self.sums = torch.empty(3, features, device=device)  # of one block
        self.magnitudes = torch.empty(0, features, device=device)

    def update(self, rows: Tensor) -> None:
        """Add float32 ``rows`` (tokens, features)."""
        for block in row_blocks(rows):
            if len(self.magnitudes) < len(block):
                self.magnitudes = torch.empty_like(block)
            magnitudes = torch.abs(block, out=self.magnitudes[: len(block)])
            torch.sum(block, 0, out=self.sums[1])
            torch.sum(magnitudes, 0, out=self.sums[0])
            torch.sum(magnitudes.square_(), 0, out=self.sums[2])
            self.totals += self.sums

    def statistics(self, index: int) -> dict[str, Tensor]:
        """The sums of layer ``index`` by name, float64 (features,) each."""
        abs_sum, signed_sum, square_sum = self.totals
        sums = {mlp_name(index, "abs_sum"): abs_sum, mlp_name(index, "sum"): signed_sum}
        return {**sums, mlp_name(index, "square_sum"): square_sum}


class ExpertSums:
    """Tokens routed to each expert, and over them Σg, Σ‖e‖, Σg‖e‖ and Σ(g‖e‖)² of its gate g and its own output e."""

    KEPT: tuple[ExpertSum, ...] = ("routed", "gate_sum", "norm_sum", "gated_norm_sum", "gated_square_sum")

    def __init__(self, num_experts: int, device: torch.device) -> None:
        """Nothing was seen."""
        self.totals = torch.zeros(len(self.KEPT), num_experts, dtype=torch.float64, device=device)

    def update(self, module: nn.Module, hidden: Tensor, chosen: Tensor, gates: Tensor) -> None:
        """Add what an experts module was called with: hidden states (tokens, hidden_size), the experts chosen for each token
        and their gates, (tokens, top_k) both."""
        for choice in range(chosen.shape[1]):
            # The module's own forward with one expert a token and a gate of one gives that expert's output.
            index, gate = chosen[:, choice : choice + 1], gates[:, choice].double()
            output = module.forward(hidden, index, torch.ones_like(index, dtype=gates.dtype))
            norm = torch.linalg.vector_norm(output.float(), dim=-1).double()
            self.totals.index_add_(
                1, index[:, 0], torch.stack([torch.ones_like(gate), gate, norm, gate * norm, (gate * norm) ** 2])
            )

    def statistics(self, index: int) -> dict[str, Tensor]:
        """The sums of layer ``index`` by name, float64 (num_experts,) each."""
        return {experts_name(index, of): total for of, total in zip(self.KEPT, self.totals, strict=True)}


def as_rows(values: Tensor) -> Tensor:
    """(..., features) as float32 (tokens, features)."""
    return values.reshape(-1, values.shape[-1]).float()


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
        self.experts: dict[int, ExpertSums] = {}
        self.head_sums: dict[int, Tensor] = {}  # Σ‖o‖², (num_heads,)
        self.cosine_sums: dict[int, Tensor] = {}
        self.linears: dict[str, Tensor] = {}
        self.num_heads: int = model.config.num_attention_heads  # type: ignore[union-attr, assignment]
        self.handles = []
        layers = cast(nn.ModuleList, model.get_submodule(spec.layers))
        for index, layer in enumerate(layers):
            modules = dict(layer.named_modules())
            if spec.mlp_out:
                mlp_out = model.get_submodule(spec.layer(index, spec.mlp_out))
                self.handles.append(mlp_out.register_forward_pre_hook(self._neuron_hook(index)))
            if spec.experts is not None and (experts := modules.get(spec.experts.module)) is not None:
                self.handles.append(experts.register_forward_pre_hook(self._expert_hook(index)))
            if (attention_out := modules.get(spec.attention_out)) is not None:
                self.handles.append(attention_out.register_forward_pre_hook(self._head_hook(index)))
            self.handles.append(layer.register_forward_hook(self._block_hook(index), with_kwargs=True))
        if all_linear:
            for name, module in layers.named_modules(prefix=spec.layers):
                if type(module) in (nn.Linear, Conv1D):  # a router that is one, too, gives more than a tensor
                    self.handles.append(module.register_forward_hook(self._linear_hook(name)))

    def _neuron_hook(self, index: int):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = as_rows(inputs[0])
            if index not in self.neurons:
                self.neurons[index] = NeuronSums(rows.shape[1], rows.device)
            self.neurons[index].update(rows)

        return hook

    def _expert_hook(self, index: int):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if index not in self.experts:
                self.experts[index] = ExpertSums(module.num_experts, inputs[0].device)  # type: ignore[arg-type]
            self.experts[index].update(module, *inputs)

        return hook

    def _head_hook(self, index: int):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            heads = as_rows(inputs[0]).unflatten(1, (self.num_heads, -1))  # (tokens, num_heads, head_dim)
            squares = torch.linalg.vector_norm(heads, dim=-1).square_().sum(0, dtype=torch.float64)
            self.head_sums[index] = self.head_sums.get(index, 0) + squares

        return hook

    def _block_hook(self, index: int):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Any], output: Tensor | tuple[Tensor, ...]) -> None:
            entering = inputs[0] if inputs else named["hidden_states"]
            leaving = output if isinstance(output, Tensor) else output[0]
            self.cosine_sums[index] = self.cosine_sums.get(index, 0) + cosine_sum(entering, leaving)
            if index == 0:  # every layer sees the same tokens
                self.count += entering[..., 0].numel()

        return hook

    def _linear_hook(self, name: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Linear | Conv1D, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            unbiased = output if module.bias is None else output - module.bias
            seen: dict[LinearSum, Tensor] = {"input": inputs[0], "output": output, "output_minus_bias": unbiased}
            for of, value in seen.items():
                key = linear_name(name, of)
                total = value.reshape(-1, value.shape[-1]).abs().sum(0, dtype=torch.float64)
                self.linears[key] = self.linears[key] + total if key in self.linears else total

        return hook

    def statistics(self) -> dict[str, Tensor]:
        """Everything gathered so far, on the CPU, by name."""
        found = {COUNT: torch.tensor(self.count)}
        for units in (self.neurons, self.experts):
            for index, sums in units.items():
                found |= sums.statistics(index)
        found |= {heads_name(index, "square_sum"): square_sum for index, square_sum in self.head_sums.items()}
        found |= {cosine_name(index): cosine_sum for index, cosine_sum in self.cosine_sums.items()}
        return {name: tensor.cpu() for name, tensor in (found | self.linears).items()}


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
def profile(model: nn.Module, spec: ArchitectureSpec, tokens: Tensor, all_linear: bool = False) -> dict[str, Tensor]:
    """Run packed ``tokens`` (sequences, length) through the decoder, without its lm_head, and give the statistics by name."""
    decoder = model.get_submodule(spec.decoder)
    with recording(model, spec, all_linear) as recorder, tqdm(total=tokens.numel(), desc="profile", unit="token") as bar:
        for batch in blocks(tokens):
            decoder(input_ids=batch, use_cache=False)
            bar.update(batch.numel())
    return recorder.statistics()
