"""Refits the experts that a layer keeps on the tokens that are now routed to them, each by least squares, one after the other.

What an expert is fitted to is what it writes plus what the layer still lacks, so each makes up for what those before it left
over (Gauss-Seidel on the joint problem, whose sums would be as large as all experts together).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from minigpts.model.layerwise import Call, hooked
from minigpts.pruning import ridge


@torch.inference_mode()
def refit_experts(
    layer: nn.Module, name: str, stream: Sequence[Tensor], calls: Sequence[Call], targets: Sequence[Tensor], direct: bool
) -> None:
    """Fit the down projections of the experts module ``name`` in place; their biases stay.

    ``stream`` holds the layer's hidden states of each batch, (sequences, length, hidden_size), and ``targets`` (alike) what the
    layer should give, or what its experts should where ``direct`` is false: where they don't write to the stream as they are.
    """
    experts = layer.get_submodule(name)
    calls_of_experts: list[tuple[Tensor, ...]] = []
    missing, held_back = [], []
    seen = 0  # sequences
    for hidden, (args, kwargs), target in zip(stream, calls, targets, strict=True):
        given: list[Tensor] = []
        with hooked(experts, lambda _, inputs, output, given=given: given.extend((*inputs, output))):  # type: ignore[misc]
            whole = layer(hidden, *args, **kwargs)
        *inputs, written = given
        calls_of_experts.append(tuple(inputs))
        missing.append((target - (whole if direct else written.view_as(hidden))).flatten(0, 1))
        held_back.append(ridge.held_back(seen, hidden))
        seen += len(hidden)
    states, chosen, gates = (torch.cat(parts) for parts in zip(*calls_of_experts, strict=True))
    _fit_in_turn(experts, states, chosen, gates, torch.cat(missing), torch.cat(held_back))


def _fit_in_turn(experts: nn.Module, states: Tensor, chosen: Tensor, gates: Tensor, missing: Tensor, held_back: Tensor) -> None:
    """Each expert in turn; ``missing`` (tokens, hidden_size) is reduced by what it newly writes."""
    for expert in range(cast(int, experts.num_experts)):
        tokens, places = (chosen == expert).nonzero(as_tuple=True)
        if len(tokens):
            inputs = gates[tokens, places, None] * _activations(experts, expert, states[tokens])
            weight = _down(experts, expert)
            target = missing[tokens] + inputs @ weight.T
            aside = held_back[tokens]
            fitted = ridge.fit(weight, [(inputs, target, aside)])
            weight.copy_(fitted)
            missing[tokens] = target - inputs @ weight.T


def _activations(experts: nn.Module, expert: int, states: Tensor) -> Tensor:
    """What an expert's down projection reads for ``states`` (tokens, hidden_size): (tokens, intermediate_size)."""
    weight = cast(Tensor, experts.gate_up_proj)[expert]
    made = states @ (weight if experts.is_transposed else weight.T)
    if experts.has_bias:
        made = made + cast(Tensor, experts.gate_up_proj_bias)[expert]
    return cast(Tensor, experts._apply_gate(made))  # type: ignore[operator]


def _down(experts: nn.Module, expert: int) -> Tensor:
    """An expert's down projection, (hidden_size, intermediate_size): a view."""
    weight = cast(Tensor, experts.down_proj)[expert]
    return weight.T if experts.is_transposed else weight
