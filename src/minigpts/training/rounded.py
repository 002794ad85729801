"""Tuning with rounded weights: each step sees the weights as a file in few bits will hold them, and changes them unrounded.

The gradient with respect to a rounded weight is applied to the unrounded one (straight-through estimation, arXiv 1308.3432). The
rounded weights take the others' places for the forward and the backward pass, so nothing is added to the model or its graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor
from transformers import PreTrainedModel

from minigpts.quantization.formats import BlockFormat
from minigpts.quantization.rounding import Grid, best_scales


class RoundedWeights:
    """The rounded form of some of a model's weights."""

    def __init__(self, model: PreTrainedModel, formats: Mapping[str, BlockFormat], transposed: bool) -> None:
        """``formats`` are those of the weights by the model's own names; ``transposed`` ones are (in_features, out_features)."""
        named = dict(model.named_parameters())
        self.weights = [(named[name], block_format) for name, block_format in formats.items()]
        self.transposed = transposed
        self.scales: list[tuple[Tensor, Tensor | None]] = []

    def search_scales(self) -> None:
        """Choose the scales anew; until the next time the codes alone follow the weights."""
        self.scales = [best_scales(self._rows(weight.data), block_format) for weight, block_format in self.weights]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model's weights are the rounded ones; behind it, those that they were before."""
        if not self.scales:
            self.search_scales()
        masters = [weight.data for weight, _ in self.weights]
        for (weight, block_format), (scale, minimum) in zip(self.weights, self.scales, strict=True):
            weight.data = self._rounded(weight.data, block_format, scale, minimum)
        try:
            yield
        finally:
            for (weight, _), master in zip(self.weights, masters, strict=True):
                weight.data = master

    def _rows(self, weight: Tensor) -> Tensor:
        return weight.T if self.transposed else weight

    def _rounded(self, weight: Tensor, block_format: BlockFormat, scale: Tensor, minimum: Tensor | None) -> Tensor:
        rows = self._rows(weight)
        blocks = rows.unflatten(1, (-1, block_format.block))
        if minimum is not None:
            blocks = blocks - minimum
        values = Grid(block_format, weight.device).nearest(blocks / scale).mul_(scale)
        if minimum is not None:
            values += minimum
        values = values.flatten(1)
        return values.T.contiguous() if self.transposed else values
