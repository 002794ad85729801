"""The paper's rule for linear layers (arXiv 2312.12682, section 3.3.1), to the letter.

For every linear layer, an output whose normalized L1 norm is ≤ ε loses its row of the weight, an input whose norm is ≤ ε
loses its column, and a bias goes only with its row and only if the biased output is ≤ ε too. Coordinates of the residual
stream can't be removed from one layer alone, so there the rule writes zeros; a unit that is private to a block, an MLP
neuron, is removed.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from minigpts.errors import UserError
from minigpts.model.spec import ArchitectureSpec
from minigpts.profiling.statistics import LINEAR_SUMS, Statistics


@dataclass(frozen=True)
class LinearMarks:
    """What the rule marks in one linear layer, whichever way its weight lies; True goes."""

    rows: Tensor  # (out_features,) by the unbiased output
    biases: Tensor  # (out_features,) by the biased output too
    columns: Tensor  # (in_features,) by the input


def marks(statistics: Statistics[Tensor], threshold: float) -> dict[str, LinearMarks]:
    """The marks of every linear layer by module name. Raises UserError when the profile lacks their sums."""
    found = {}
    for name in statistics.linear_modules:
        small = {of: statistics.linear_mean_abs(name, of) <= threshold for of in LINEAR_SUMS}
        rows = small["output_minus_bias"]
        found[name] = LinearMarks(rows=rows, biases=rows & small["output"], columns=small["input"])
    if not found:
        raise UserError("params.yaml: prune_neurons.linear_threshold needs profile.all_linear: true")
    return found


def of_layer(marked: Mapping[str, LinearMarks], spec: ArchitectureSpec, index: int) -> dict[str, LinearMarks]:
    """The marks of one decoder layer, by module names relative to it."""
    prefix = f"{spec.layers}.{index}."
    return {name.removeprefix(prefix): mark for name, mark in marked.items() if name.startswith(prefix)}


def removable_neurons(marked: Mapping[str, LinearMarks], names: Container[str], spec: ArchitectureSpec, index: int) -> Tensor:
    """MLP neurons of layer ``index`` that the marks silence altogether; ``names`` are the model's tensors. bool (I,)

    A neuron is silent when the layer that reads it loses its column, or when a layer that makes it loses the row and has
    no bias left there: SiLU, GELU and ReLU are 0 at 0, and a gate of 0 silences its product.
    """
    silent = marked[spec.layer(index, spec.mlp_out)].columns
    for module in spec.mlp_in:
        name = spec.layer(index, module)
        rows = marked[name].biases if f"{name}.bias" in names else marked[name].rows
        silent = silent | rows.view(spec.mlp_in_blocks, -1).any(0)
    return silent


def zeroed(tensors: Mapping[str, Tensor], marked: Mapping[str, LinearMarks], spec: ArchitectureSpec) -> dict[str, Tensor]:
    """A copy of ``tensors`` with zeros wherever the rule marks a row, a column or a bias."""
    result = dict(tensors)
    for name, mark in marked.items():
        gone = mark.rows[:, None] | mark.columns[None, :]  # (out_features, in_features)
        result[f"{name}.weight"] = result[f"{name}.weight"].masked_fill(gone.T if spec.transposed else gone, 0)
        if f"{name}.bias" in result:
            result[f"{name}.bias"] = result[f"{name}.bias"].masked_fill(mark.biases, 0)
    return result


def num_nonzero(tensors: Mapping[str, Tensor]) -> int:
    """Parameters that are not exactly zero."""
    return sum(int(torch.count_nonzero(tensor)) for tensor in tensors.values())
