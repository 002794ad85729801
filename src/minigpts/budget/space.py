"""What a budget's search can choose from, how large every choice is, and what the user's limit allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from minigpts.budget.accounting import Outline, child_shapes, group_sizes, grouped, weights_bytes
from minigpts.errors import UserError
from minigpts.model.spec import ArchitectureSpec
from minigpts.model.weights import Shapes, StoredWeights, num_parameters
from minigpts.pruning import layers, neurons
from minigpts.pruning.allocation import Allocation
from minigpts.quantization.formats import FORMATS, fitting, format_of, with_fallbacks
from minigpts.quantization.groups import GROUPS, row_length

if TYPE_CHECKING:
    from minigpts.budget.search import Choice

POINTS = 4  # numbers of tokens at which a file's header is computed; between them it is interpolated
LONG = 256  # a row that every format's block divides


def require_rows(precisions: Sequence[str], shapes: Shapes, spec: ArchitectureSpec) -> None:
    """Raise a UserError for a format that no row of the model can hold."""
    lengths = sorted({row_length(spec.model_type, name, shapes[name]) for name in grouped(spec, shapes)})
    for name in precisions:
        if all(fitting(name, length) is not format_of(name) for length in lengths):
            raise UserError(
                f"params.yaml: budget.precisions: no row of this model can hold {name}, blocks of {FORMATS[name].block} weights;"
                f" its rows have {', '.join(map(str, lengths))}"
            )


@dataclass(frozen=True)
class Limit:
    """What the child may have at most, and what the user called it."""

    most: int
    in_bytes: bool  # of the exported file; else parameters
    said: str  # "budget.target_megabytes 3"

    @classmethod
    def of(cls, stored: StoredWeights, target_size_reduction: float | None, target_megabytes: float | None) -> Limit:
        """From the one of the two targets that is set. Raises UserError when the parent ``stored`` is no larger."""
        if target_megabytes is None:
            assert target_size_reduction is not None
            most = math.floor((1 - target_size_reduction) * num_parameters(stored.shapes) + 1e-6)
            return cls(most, False, f"budget.target_size_reduction {target_size_reduction:g}")
        limit = cls(math.floor(target_megabytes * 1e6 + 1e-6), True, f"budget.target_megabytes {target_megabytes:g}")
        size = weights_bytes(stored.shapes, stored.dtype)
        if limit.most >= size:
            raise UserError(f"params.yaml: {limit.said} is no less than the parent's weights have ({limit.text(size)}); lower it")
        return limit

    def text(self, size: float) -> str:
        """A size in the limit's unit, in words."""
        return f"{size / 1e6:,.6g} MB" if self.in_bytes else f"{size:,.0f} parameters"


class FileSize(Protocol):
    """The exact size of an exported file."""

    def __call__(self, outline: Outline, num_counted: int, formats: dict[str, str]) -> int:
        """Bytes of the child's file: its sizes, the tokens kept for their count, a format for each group."""


@dataclass(frozen=True)
class Depth:
    """The layers that are left when the least influential ones are removed."""

    layers: list[int]  # of the parent, in order
    widths: list[int]  # uncut


@dataclass(frozen=True)
class Space:
    """What can be chosen from, with the parent's facts that sizes follow from."""

    shapes: Shapes  # the parent's, with the MLP biases that the child will have
    dtype: torch.dtype
    spec: ArchitectureSpec
    num_groups: int  # key/value heads of each of the parent's layers
    layer_scores: torch.Tensor
    scores: neurons.NeuronScores
    vocabulary_sizes: NDArray[np.int64]  # tokens that stay when the n most frequent are counted, over n
    allocation: Allocation
    head_options: Sequence[int]  # how many of them may go from every layer, ascending
    layer_options: Sequence[int]  # how many layers may go, ascending
    num_experts: int = 0  # of each of the parent's layers that is a mixture
    expert_options: Sequence[int] = ()  # how many of them may go from every layer, ascending
    precisions: Sequence[str] = ()  # formats allowed
    file_size: FileSize | None = None  # needed for a limit in bytes

    @cached_property
    def depths(self) -> dict[int, Depth]:
        """What is left, by the number of removed layers."""
        kinds = layers.kinds(self.spec, self.shapes, len(self.layer_scores))
        kept = {number: layers.kept(self.layer_scores, number, kinds) for number in (0, *self.layer_options)}
        return {number: Depth(left, [len(self.scores.scores[index]) for index in left]) for number, left in kept.items()}

    def outline(self, choice: Choice, multiple_of: int) -> Outline:
        """The child's sizes."""
        kept = self.depths[choice.num_removed_layers].layers
        widths = neurons.widths_of_sum(
            self.scores, kept, choice.num_kept_neurons, allocation=self.allocation, multiple_of=multiple_of
        )
        num_groups = self.num_groups - choice.num_removed_groups
        num_rows, num_experts = int(self.vocabulary_sizes[choice.num_counted]), self.num_experts - choice.num_removed_experts
        return Outline(kept, num_groups, widths, num_rows, num_experts)

    def uncut(self, num_removed_layers: int, num_rows: int) -> Outline:
        """The sizes of a child that loses layers and tokens alone."""
        depth = self.depths[num_removed_layers]
        return Outline(depth.layers, self.num_groups, depth.widths, num_rows, self.num_experts)

    def removed_share(self, num_removed_layers: int, kept: NDArray[np.int64]) -> NDArray[np.float64]:
        """The share of the MLP neurons of the layers that stay that is removed where ``kept`` are left; 0 where there are none."""
        total = sum(self.depths[num_removed_layers].widths)
        return np.asarray(1 - kept / total if total else np.zeros(np.shape(kept)))

    def child(self, outline: Outline) -> Shapes:
        """Its tensors."""
        return child_shapes(self.shapes, self.spec, self.num_groups, outline)

    def size(self, limit: Limit, outline: Outline, choice: Choice) -> int:
        """What counts against the limit, exactly."""
        if not limit.in_bytes:
            return num_parameters(self.child(outline))
        assert self.file_size is not None
        return self.file_size(outline, choice.num_counted, dict(zip(GROUPS, choice.formats, strict=True)))

    def neuron_counts(self, num_removed_layers: int, multiple_of: int) -> NDArray[np.int64]:
        """The numbers of neurons that the layers that stay can keep, ascending: ``uniform`` takes the same of equal layers."""
        sizes = self.depths[num_removed_layers].widths
        capacity = sum(size // multiple_of for size in sizes) * multiple_of
        equal = self.allocation == "uniform" and len(set(sizes)) == 1
        step = multiple_of * (len(sizes) if equal else 1)
        return np.unique([*range(multiple_of * len(sizes), capacity + 1, step), sum(sizes)])

    # Sizes as the search needs them: of many choices at once, right but for the header's bytes

    def fixed_sizes(
        self,
        limit: Limit,
        heads: int,
        num_layers: int,
        num_experts: int,
        kept: NDArray[np.int64],
        multiple_of: int,
        formats: Sequence[Sequence[str]],
    ) -> NDArray[np.float64]:
        """What is left without tokens when ``heads`` key/value groups, ``num_layers`` layers and ``num_experts`` experts are
        removed, by ``formats`` (one for each of GROUPS, or none) and the number of ``kept`` neurons: (formats, neurons)."""
        bare, neuron, expert = self._bare[heads, num_layers], self._per_neuron, self._per_expert[num_layers]
        sizes = []
        for each in formats:
            names: Sequence[str | None] = each or [None] * len(GROUPS)
            of_group = dict(zip(GROUPS, names, strict=True))
            fixed = sum(
                bare[name][group] - num_experts * expert[name][group] for group, name in [("", names[0]), *of_group.items()]
            )
            out: Any = neuron[of_group["mlp_out"]]["mlp_out"]
            if each:
                for found in reversed(with_fallbacks(each[-1])):
                    fits = self._widths_fit(found.block, num_layers, kept, multiple_of)
                    out = np.where(fits, neuron[found.name]["mlp_out"], out)
            sizes.append(fixed + kept * (neuron[names[0]][""] + neuron[of_group["mlp_in"]]["mlp_in"] + out))
        header = num_layers * self._header_per_layer if limit.in_bytes else 0.0
        return np.asarray(np.stack(sizes) - header, dtype=np.float64)

    def _widths_fit(self, block: int, num_layers: int, kept: NDArray[np.int64], multiple_of: int) -> NDArray[np.bool_]:
        """Whether the widths are multiples of a block."""
        sizes = self.depths[num_layers].widths
        whole = kept == sum(sizes)
        if self.allocation == "uniform" and len(set(sizes)) == 1:
            return np.asarray(kept % (block * len(sizes)) == 0)
        return np.where(whole, not any(size % block for size in sizes), multiple_of % block == 0)

    def token_sizes(self, limit: Limit, embedding: str | None) -> NDArray[np.float64]:
        """What the tokens take, and in bytes the file's header with the tokenizer, over the tokens kept for their count."""
        sizes = self.vocabulary_sizes
        rows = np.asarray(sizes * float(sum(self._per_row[embedding])), dtype=np.float64)
        if not limit.in_bytes or embedding is None:
            return rows
        numbers = np.unique(np.linspace(0, len(sizes) - 1, POINTS).round().astype(int))
        points = [self._header(0, int(number), embedding) for number in numbers]
        return np.asarray(rows + np.interp(np.arange(len(sizes)), numbers, points), dtype=np.float64)

    def _header(self, num_layers: int, num_counted: int, embedding: str) -> float:
        """What the file of a child that lost layers and tokens alone has besides its tensors' data as counted here."""
        assert self.file_size is not None
        outline = self.uncut(num_layers, int(self.vocabulary_sizes[num_counted]))
        data = sum(group_sizes(self.child(outline), self.spec, embedding).values())
        return self.file_size(outline, num_counted, dict.fromkeys(GROUPS, embedding)) - data

    @cached_property
    def _header_per_layer(self) -> float:
        """What a layer adds to it: the names and places of its tensors."""
        most, tokens, name = max(self.depths), len(self.vocabulary_sizes) - 1, self.precisions[0]
        return (self._header(0, tokens, name) - self._header(most, tokens, name)) / most if most else 0.0

    def per_row(self, limit: Limit, formats: Sequence[str]) -> int:
        """The size of a token."""
        return sum(self._per_row[formats[0] if formats else None])

    @cached_property
    def _units(self) -> tuple[str | None, ...]:
        return (None, *dict.fromkeys(found.name for name in self.precisions for found in with_fallbacks(name)))

    @cached_property
    def _bare(self) -> dict[tuple[int, int], dict[str | None, dict[str, int]]]:
        """Sizes without neurons and tokens, by removed key/value groups and layers, then by format and group."""
        return {
            (heads, number): self._by_format(
                Outline(depth.layers, self.num_groups - heads, [0] * len(depth.layers), 0, self.num_experts)
            )
            for heads in (0, *self.head_options)
            for number, depth in self.depths.items()
        }

    @cached_property
    def _per_expert(self) -> dict[int, dict[str | None, dict[str, int]]]:
        """The size of an expert of every layer, by removed layers, then by format and group."""
        found = {}
        for number in self.depths:
            whole = self.uncut(number, 0)
            before, after = (self._by_format(outline) for outline in (whole, replace(whole, num_experts=self.num_experts - 1)))
            found[number] = {unit: {group: size - after[unit][group] for group, size in before[unit].items()} for unit in before}
        return found

    def _by_format(self, outline: Outline) -> dict[str | None, dict[str, int]]:
        shapes = self.child(outline)
        return {name: group_sizes(shapes, self.spec, name) for name in self._units}

    @cached_property
    def _per_neuron(self) -> dict[str | None, dict[str, float]]:
        """The size of a neuron, by format and group, in layers that every format's block divides."""
        whole, number = self.uncut(0, 0), LONG * len(self.depths[0].layers)
        none, some = (self._by_format(replace(whole, widths=[width] * len(whole.layers))) for width in (0, LONG))
        return {unit: {group: (some[unit][group] - none[unit][group]) / number for group in some[unit]} for unit in self._units}

    @cached_property
    def _per_row(self) -> dict[str | None, tuple[int, int]]:
        """The size of a token: its rows, and its biases."""
        none, one = (self._by_format(self.uncut(0, rows)) for rows in (0, 1))
        return {unit: (one[unit]["embedding"] - none[unit]["embedding"], one[unit][""] - none[unit][""]) for unit in self._units}

    # What kinds free, for the table

    @cached_property
    def per_neuron(self) -> int:
        """Parameters of an MLP neuron."""
        return neurons.parameters_per_neuron(self.shapes, self.spec)

    def stored_bytes(self, outline: Outline) -> int:
        """Bytes of a child's tensors in the parent's precision."""
        return num_parameters(self.child(outline)) * self.dtype.itemsize

    def bytes_saved_by(self, outline: Outline, formats: Sequence[str]) -> dict[str, int]:
        """Bytes that each group's format saves over the parent's precision, under the name of :func:`bits_of`."""
        shapes = self.child(outline)
        before = group_sizes(shapes, self.spec, None)
        return {
            bits_of(group): before[group] * self.dtype.itemsize - group_sizes(shapes, self.spec, name)[group]
            for group, name in zip(GROUPS, formats, strict=False)
        }


def bits_of(group: str) -> str:
    """What the table calls the bits of a group of tensors."""
    return f"bits of {group}"
