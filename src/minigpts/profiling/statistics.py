"""The typed reader of what profiling writes, and the one place that knows its names.

Sums over the calibration tokens are stored, not scores, so that a new criterion needs no new pass. In the file:

* ``count``: tokens seen, int64 scalar;
* ``layers.{i}.mlp.abs_sum``, ``.sum``, ``.square_sum``: Σ|a|, Σa, Σa² of the activation a that the MLP's output projection
  reads, float64 (intermediate_size,);
* ``layers.{i}.heads.square_sum``: Σ‖o‖² of each head's output o, float64 (num_attention_heads,);
* ``layers.{i}.block.cosine_sum``: Σ cos(hidden state into the layer, hidden state out of it), float64 scalar;
* ``layers.{i}.experts.routed``, ``.gate_sum``, ``.norm_sum``, ``.gated_norm_sum``, ``.gated_square_sum``: the number of tokens
  routed to each expert, and over them Σg, Σ‖e‖, Σg‖e‖ and Σ(g‖e‖)² of its gate g and its output e, float64 (num_experts,);
* ``linear.{module}.input_abs_sum``, ``.output_abs_sum``, ``.output_minus_bias_abs_sum``: Σ|x|, Σ|y|, Σ|y − b| of a linear
  layer, float64, for the paper's linear rule, where asked for;
* ``gradient_count``: tokens that also went backwards, int64 scalar, and, where there are any, of each layer
* ``layers.{i}.mlp.taylor_sum``: Σ (∂L/∂a · a)², nats², float64 (intermediate_size,);
* ``layers.{i}.heads.taylor_sum``: Σ (Σ_c ∂L/∂o_c · o_c)² over a head's channels c, nats², float64 (num_attention_heads,).

A layer of a mixture has the sums of an MLP only where there is one beside its experts, one of a hybrid those of heads only where
it has attention.

No torch here: the arrays are whatever the file was read as, torch's or numpy's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

if TYPE_CHECKING:
    import numpy
    import torch

Array = TypeVar("Array", "torch.Tensor", "numpy.ndarray")

NeuronSum = Literal["abs_sum", "sum", "square_sum", "taylor_sum"]
LinearSum = Literal["input", "output", "output_minus_bias"]
ExpertSum = Literal["routed", "gate_sum", "norm_sum", "gated_norm_sum", "gated_square_sum"]

COUNT, GRADIENT_COUNT = "count", "gradient_count"
LINEAR_SUMS: tuple[LinearSum, ...] = ("input", "output", "output_minus_bias")


def mlp_name(index: int, of: NeuronSum) -> str:
    """The name of a sum over the MLP activations of layer ``index``."""
    return f"layers.{index}.mlp.{of}"


def heads_name(index: int, of: Literal["square_sum", "taylor_sum"]) -> str:
    """The name of a sum over the head outputs of layer ``index``."""
    return f"layers.{index}.heads.{of}"


def experts_name(index: int, of: ExpertSum) -> str:
    """The name of a sum over the experts of layer ``index``."""
    return f"layers.{index}.experts.{of}"


def cosine_name(index: int) -> str:
    """The name of layer ``index``'s sum of cosines."""
    return f"layers.{index}.block.cosine_sum"


def linear_name(module: str, of: LinearSum) -> str:
    """The name of a sum over what a linear layer reads or gives."""
    return f"linear.{module}.{of}_abs_sum"


@dataclass(frozen=True)
class Statistics(Generic[Array]):
    """What the units of a model did over the calibration text. I = the layer's intermediate size."""

    sums: Mapping[str, Array]  # by the names above

    @property
    def count(self) -> int:
        """Tokens seen."""
        return int(self.sums[COUNT])

    @property
    def gradient_count(self) -> int:
        """Tokens that also went backwards; 0 where the profile took no gradients."""
        return int(self.sums.get(GRADIENT_COUNT, 0))

    @property
    def num_layers(self) -> int:
        """Layers that were profiled."""
        return sum(name.endswith(".block.cosine_sum") for name in self.sums)

    def width(self, index: int) -> int:
        """MLP neurons of a layer; 0 where it has experts alone."""
        return len(self.sums.get(mlp_name(index, "abs_sum"), ()))

    def num_experts(self, index: int) -> int:
        """Experts of a layer; 0 of a dense one."""
        return len(self.sums.get(experts_name(index, "routed"), ()))

    def num_heads(self, index: int) -> int:
        """Attention heads of a layer; 0 where it has no attention."""
        return len(self.sums.get(heads_name(index, "square_sum"), ()))

    def mean_abs(self, index: int) -> Array:
        """m_j = (1/n) Σ_t |a_j,t|: the normalized L1 norm of every neuron, Eq. 1 of arXiv 2312.12682. (I,)"""
        return self.sums[mlp_name(index, "abs_sum")] / self.count

    def mean_abs_by_layer(self) -> list[Array]:
        """The same of every layer, in order; of none where the layers have experts instead."""
        return [self.mean_abs(index) for index in range(sum(name.endswith(".mlp.abs_sum") for name in self.sums))]

    def mean(self, index: int) -> Array:
        """E a of every neuron. (I,)"""
        return self.sums[mlp_name(index, "sum")] / self.count

    def mean_square(self, index: int) -> Array:
        """E a² of every neuron. (I,)"""
        return self.sums[mlp_name(index, "square_sum")] / self.count

    def taylor(self, index: int) -> Array | None:
        """E (∂L/∂a · a)² of every neuron, nats²; None where the profile took no gradients. (I,)"""
        name = mlp_name(index, "taylor_sum")
        return self.sums[name] / self.gradient_count if name in self.sums else None

    def heads(self, index: int) -> Array:
        """Σ‖o‖² of every head. (num_heads,)"""
        return self.sums[heads_name(index, "square_sum")]

    def heads_taylor(self, index: int) -> Array | None:
        """Σ (Σ_c ∂L/∂o_c · o_c)² of every head, nats²; None where the profile took no gradients. (num_heads,)"""
        return self.sums.get(heads_name(index, "taylor_sum"))

    def experts(self, index: int, of: ExpertSum) -> Array:
        """A sum of every expert. (num_experts,)"""
        return self.sums[experts_name(index, of)]

    def block_influence(self, index: int) -> Array:
        """1 − E cos(hidden state into the layer, out of it): ShortGPT's block influence (arXiv 2403.03853). Scalar in [0, 2]."""
        return 1 - self.sums[cosine_name(index)] / self.count

    @property
    def linear_modules(self) -> list[str]:
        """Names of the linear layers that were profiled, sorted."""
        prefix, suffix = linear_name("|", "input").split("|")
        return sorted(
            name.removeprefix(prefix).removesuffix(suffix)
            for name in self.sums
            if name.startswith(prefix) and name.endswith(suffix)
        )

    def linear_mean_abs(self, module: str, of: LinearSum) -> Array:
        """Mean |x|, |y| or |y − b| of a linear layer. (in_features,) or (out_features,)"""
        return self.sums[linear_name(module, of)] / self.count
