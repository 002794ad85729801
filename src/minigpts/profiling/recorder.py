"""Sufficient statistics of MLP neurons, experts, attention heads, whole layers and, where asked, every linear layer, by hooks.

What is summed, and under which names, is told in :mod:`minigpts.profiling.statistics`. Calibration text is packed, so there is
no padding that could count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers.pytorch_utils import Conv1D

from minigpts import ranks
from minigpts.model.forward import Model, hidden_states_of
from minigpts.model.spec import ArchitectureSpec
from minigpts.profiling.statistics import (
    COUNT,
    ExpertSum,
    LinearSum,
    NeuronSum,
    cosine_name,
    experts_name,
    heads_name,
    linear_name,
    mlp_name,
)

T = TypeVar("T")
Names = tuple[str, ...]  # of totals that are added to together

# Tokens that go through the model at once: as many sequences as fit, one at least. Fixed, because the last bits of a matrix
# product depend on its shape: so neither the machine nor runtime.batch_tokens shows in the statistics. On one CPU core 512 are
# as fast as 2048 (233 and 200 tokens/s, SmolLM2-135M on an AMD EPYC), and what a hook reads is still in the cache.
BLOCK_TOKENS = 512
GROUP = 32  # blocks whose sums several processes hold apart: at 7B shapes 0.3 GB of them

# Activations are summed in fp32 over so many rows at most, pairwise as torch sums, and from there on in fp64. On a CPU a block
# stays in the cache; on a GPU, where what counts is how many kernels are launched, a batch is summed at once.
BLOCK_ROWS = 256


def blocks(tokens: Tensor) -> tuple[Tensor, ...]:
    """Packed ``tokens`` (sequences, length) in the batches that every profiling pass runs, whatever the machine."""
    return tokens.split(max(BLOCK_TOKENS // tokens.shape[1], 1))


def _groups(batches: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    """The batches that one process runs together, in order: all of them where it is alone."""
    size = len(batches) if ranks.count() == 1 else min(GROUP, -(-len(batches) // ranks.count()))
    return [batches[start : start + size] for start in range(0, len(batches), size)]


def row_blocks(rows: Tensor) -> tuple[Tensor, ...]:
    """``rows`` (tokens, features) in the parts that are summed at a time."""
    return rows.split(len(rows) if rows.is_cuda else BLOCK_ROWS)


class Sums:
    """float64 totals, in the order of what is added, whichever process it comes from."""

    def __init__(self) -> None:
        """Nothing was added."""
        self.totals: dict[Names, Tensor] = {}
        self._apart: list[tuple[Names, Tensor]] | None = None  # what a batch adds, where another process adds it up

    def add(self, names: Names, values: Tensor) -> None:
        """Add ``values`` (names, …) to the totals of these names."""
        if self._apart is not None:
            self._apart.append((names, values.to("cpu", copy=True)))
            return
        if names not in self.totals:
            self.totals[names] = torch.zeros_like(values, dtype=torch.float64)
        self.totals[names] += values

    def over(self, items: Sequence[T], run: Callable[[T], None]) -> None:
        """Call ``run``, which adds, on every item.

        Among several processes each item is run by one, and the main one adds up: to each total the same in the same order. The
        others have none.
        """
        if ranks.count() == 1:
            for item in items:
                run(item)
            return

        def apart(item: T) -> list[tuple[Names, Tensor]]:
            self._apart = []
            run(item)
            found, self._apart = self._apart, None
            return found

        for found in ranks.in_order(items, apart, main_only=True):
            for names, values in found:
                self.add(names, values)

    def by_name(self) -> dict[str, Tensor]:
        """Each total, on the CPU."""
        return {name: total for names, totals in self.totals.items() for name, total in zip(names, totals.cpu(), strict=True)}


class NeuronSums:
    """Σ|a|, Σa and Σa² per column of everything it is shown."""

    KEPT: tuple[NeuronSum, ...] = ("abs_sum", "sum", "square_sum")

    def __init__(self, index: int, sums: Sums) -> None:
        """Add to ``sums`` by the names of layer ``index``."""
        self.names, self.sums = tuple(mlp_name(index, of) for of in self.KEPT), sums
        self.block, self.magnitudes = torch.empty(3, 0), torch.empty(0, 0)

    def update(self, rows: Tensor) -> None:
        """Add float32 ``rows`` (tokens, features)."""
        for block in row_blocks(rows):
            if len(self.magnitudes) < len(block):
                self.block, self.magnitudes = block.new_empty(3, block.shape[1]), torch.empty_like(block)
            magnitudes = torch.abs(block, out=self.magnitudes[: len(block)])
            torch.sum(block, 0, out=self.block[1])
            torch.sum(magnitudes, 0, out=self.block[0])
            torch.sum(magnitudes.square_(), 0, out=self.block[2])
            self.sums.add(self.names, self.block)


class ExpertSums:
    """Tokens routed to each expert, and over them Σg, Σ‖e‖, Σg‖e‖ and Σ(g‖e‖)² of its gate g and its own output e."""

    KEPT: tuple[ExpertSum, ...] = ("routed", "gate_sum", "norm_sum", "gated_norm_sum", "gated_square_sum")

    def __init__(self, index: int, sums: Sums) -> None:
        """Add to ``sums`` by the names of layer ``index``."""
        self.names, self.sums = tuple(experts_name(index, of) for of in self.KEPT), sums

    def update(self, module: nn.Module, hidden: Tensor, chosen: Tensor, gates: Tensor) -> None:
        """Add what an experts module was called with: hidden states (tokens, hidden_size), the experts chosen for each token
        and their gates, (tokens, top_k) both."""
        found = torch.zeros(len(self.KEPT), int(module.num_experts), dtype=torch.float64, device=hidden.device)  # type: ignore[arg-type]
        for choice in range(chosen.shape[1]):
            # The module's own forward with one expert a token and a gate of one gives that expert's output.
            index, gate = chosen[:, choice : choice + 1], gates[:, choice].double()
            output = module.forward(hidden, index, torch.ones_like(index, dtype=gates.dtype))
            norm = torch.linalg.vector_norm(output.float(), dim=-1).double()
            found.index_add_(1, index[:, 0], torch.stack([torch.ones_like(gate), gate, norm, gate * norm, (gate * norm) ** 2]))
        self.sums.add(self.names, found)


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

    def __init__(self, model: Model, spec: ArchitectureSpec, all_linear: bool) -> None:
        """Register the hooks on ``model``."""
        self.sums = Sums()
        self.num_heads: int = model.config.num_attention_heads
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
        neurons = NeuronSums(index, self.sums)

        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            neurons.update(as_rows(inputs[0]))

        return hook

    def _expert_hook(self, index: int):  # type: ignore[no-untyped-def]
        experts = ExpertSums(index, self.sums)

        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            experts.update(module, *inputs)

        return hook

    def _head_hook(self, index: int):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            heads = as_rows(inputs[0]).unflatten(1, (self.num_heads, -1))  # (tokens, num_heads, head_dim)
            squares = torch.linalg.vector_norm(heads, dim=-1).square_().sum(0, dtype=torch.float64)
            self.sums.add((heads_name(index, "square_sum"),), squares[None])

        return hook

    def _block_hook(self, index: int):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Any], output: Tensor | tuple[Tensor, ...]) -> None:
            entering = inputs[0] if inputs else named["hidden_states"]
            leaving = output if isinstance(output, Tensor) else output[0]
            self.sums.add((cosine_name(index),), cosine_sum(entering, leaving)[None])
            if index == 0:  # every layer sees the same tokens
                self.sums.add((COUNT,), torch.tensor([entering[..., 0].numel()]))

        return hook

    def _linear_hook(self, name: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Linear | Conv1D, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            unbiased = output if module.bias is None else output - module.bias
            seen: dict[LinearSum, Tensor] = {"input": inputs[0], "output": output, "output_minus_bias": unbiased}
            for of, value in seen.items():
                total = value.reshape(-1, value.shape[-1]).abs().sum(0, dtype=torch.float64)
                self.sums.add((linear_name(name, of),), total[None])

        return hook

    def statistics(self) -> dict[str, Tensor]:
        """Everything gathered so far, on the CPU, by name."""
        found = self.sums.by_name()
        return found | {COUNT: found[COUNT].long()} if found else found


@contextmanager
def recording(model: Model, spec: ArchitectureSpec, all_linear: bool = False) -> Iterator[Recorder]:
    """Record the statistics of every forward pass inside the block."""
    recorder = Recorder(model, spec, all_linear)
    try:
        yield recorder
    finally:
        for handle in recorder.handles:
            handle.remove()


@torch.inference_mode()
def profile(model: Model, spec: ArchitectureSpec, tokens: Tensor, all_linear: bool = False) -> dict[str, Tensor]:
    """Run packed ``tokens`` (sequences, length) through the decoder, without its lm_head, and give the statistics by name.

    Several processes share the blocks; the statistics are the main one's, the others have none.
    """
    groups = _groups(blocks(tokens))
    own = sum(batch.numel() for group in ranks.share(groups) for batch in group)
    with recording(model, spec, all_linear) as recorder, tqdm(total=own, desc="profile", unit="token") as bar:

        def run(group: Sequence[Tensor]) -> None:
            for hidden in hidden_states_of(model, ({"input_ids": batch} for batch in group)):
                bar.update(hidden.shape[:2].numel())

        recorder.sums.over(groups, run)
    return recorder.statistics()
