"""Cuts on the tensors of a state dict: rows of what makes the neurons, columns of what reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from minigpts.architectures.spec import ArchitectureSpec


def slice_neurons(weights: Mapping[str, Tensor], spec: ArchitectureSpec, kept: Sequence[Tensor]) -> dict[str, Tensor]:
    """Keep the neurons ``kept[i]`` (sorted indices) of layer i: gate, up and down are cut together, physically.

    Other tensors pass through untouched; the output projection's bias belongs to the residual stream and stays.
    """
    sliced = dict(weights)
    for index, keep in enumerate(kept):
        for module in spec.mlp_in:
            for kind in ("weight", "bias"):
                name = f"{spec.layer(index, module)}.{kind}"
                if name in sliced:
                    sliced[name] = sliced[name].index_select(0, keep)
        name = f"{spec.layer(index, spec.mlp_out)}.weight"
        sliced[name] = sliced[name].index_select(1, keep)
    return sliced
