"""Chooses the combination of cuts that is predicted to hurt least, among those that land within 1 % below the limit.

Damages are taken to add up, and a share of the neurons of fewer layers to hurt as the same share of all layers' does:
interactions make the sum too low for deep cuts, the second assumption makes it too high. Heads, layers and neurons are gone
through one by one, and the vocabulary takes what they leave: a token is the smallest unit there is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from minigpts.budget.accounting import Outline, child_shapes, weights_bytes
from minigpts.budget.curves import Curves
from minigpts.errors import UserError
from minigpts.model.spec import ArchitectureSpec
from minigpts.model.weights import Shapes, StoredWeights, num_parameters
from minigpts.pruning import layers, neurons
from minigpts.pruning.allocation import Allocation

LANDING = 0.99  # of the limit at least


@dataclass(frozen=True)
class Limit:
    """What the child may have at most, and what the user called it."""

    most: int
    in_bytes: bool  # of the weights file; else parameters
    said: str  # "budget.target_megabytes 3"

    @classmethod
    def of(cls, stored: StoredWeights, target_size_reduction: float | None, target_megabytes: float | None) -> Limit:
        """From the one of the two targets that is set. Raises UserError when the parent ``stored`` is no larger."""
        if target_megabytes is None:
            assert target_size_reduction is not None
            most = math.floor((1 - target_size_reduction) * num_parameters(stored.shapes) + 1e-6)
            return cls(most, False, f"budget.target_size_reduction {target_size_reduction:g}")
        limit = cls(math.floor(target_megabytes * 1e6 + 1e-6), True, f"budget.target_megabytes {target_megabytes:g}")
        size = limit.size(stored.shapes, stored.dtype)
        if limit.most >= size:
            raise UserError(f"params.yaml: {limit.said} is no less than the parent's weights have ({limit.text(size)}); lower it")
        return limit

    def size(self, shapes: Shapes, dtype: torch.dtype) -> int:
        """What counts against it."""
        return weights_bytes(shapes, dtype) if self.in_bytes else num_parameters(shapes)

    def text(self, size: float) -> str:
        """A size in the limit's unit, in words."""
        return f"{size / 1e6:,.6g} MB" if self.in_bytes else f"{size:,.0f} parameters"


@dataclass(frozen=True)
class Choice:
    """One combination."""

    num_removed_groups: int
    num_removed_layers: int
    num_kept_neurons: int  # of all layers that stay
    num_counted: int  # most frequent tokens that stay for their count
    damage: float  # predicted, bits per byte


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

    @cached_property
    def depths(self) -> dict[int, Depth]:
        """What is left, by the number of removed layers."""
        kept = {number: layers.kept(self.layer_scores, number) for number in (0, *self.layer_options)}
        return {number: Depth(left, [len(self.scores.scores[index]) for index in left]) for number, left in kept.items()}

    def outline(self, choice: Choice, multiple_of: int) -> Outline:
        """The child's sizes."""
        kept = self.depths[choice.num_removed_layers].layers
        widths = neurons.widths_of_sum(
            self.scores, kept, choice.num_kept_neurons, allocation=self.allocation, multiple_of=multiple_of
        )
        num_groups = self.num_groups - choice.num_removed_groups
        return Outline(kept, num_groups, widths, int(self.vocabulary_sizes[choice.num_counted]))

    def child(self, outline: Outline) -> Shapes:
        """Its tensors."""
        return child_shapes(self.shapes, self.spec, self.num_groups, outline)

    def neuron_counts(self, num_removed_layers: int, multiple_of: int) -> NDArray[np.int64]:
        """The numbers of neurons that the layers that stay can keep, ascending: ``uniform`` takes the same of equal layers."""
        sizes = self.depths[num_removed_layers].widths
        capacity = sum(size // multiple_of for size in sizes) * multiple_of
        equal = self.allocation == "uniform" and len(set(sizes)) == 1
        step = multiple_of * (len(sizes) if equal else 1)
        return np.unique([*range(multiple_of * len(sizes), capacity + 1, step), sum(sizes)])

    @cached_property
    def per_neuron(self) -> int:
        """Parameters of an MLP neuron."""
        return neurons.parameters_per_neuron(self.shapes, self.spec)

    @cached_property
    def per_row(self) -> int:
        """Parameters of a token."""
        whole = self.depths[0]
        none, one = (self.child(Outline(whole.layers, self.num_groups, whole.widths, rows)) for rows in (0, 1))
        return num_parameters(one) - num_parameters(none)

    @cached_property
    def bare_sizes(self) -> dict[tuple[int, int], int]:
        """Parameters without neurons and tokens, by the numbers of removed key/value groups and of removed layers."""
        return {
            (groups, number): num_parameters(
                self.child(Outline(depth.layers, self.num_groups - groups, [0] * len(depth.layers), 0))
            )
            for groups in (0, *self.head_options)
            for number, depth in self.depths.items()
        }


def choose(space: Space, curves: Curves, limit: Limit, multiple_of: int) -> tuple[Choice, Outline]:
    """The least predicted damage within the limit. ``multiple_of`` is halved where widths in such steps can't land there.

    Raises UserError for a limit that is less than what can't go, or that nothing lands within 1 % below.
    """
    nearest = 0
    while True:
        for choice in _candidates(space, curves, limit, multiple_of):
            outline = space.outline(choice, multiple_of)
            size = limit.size(space.child(outline), space.dtype)
            if LANDING * limit.most <= size <= limit.most:
                return choice, outline
            nearest = max(nearest, size)
        if multiple_of == 1:
            raise UserError(
                f"params.yaml: nothing lands within 1 % below {limit.said} ({limit.text(limit.most)});"
                f" the nearest cut leaves {limit.text(nearest)}: ask for that"
            )
        multiple_of //= 2


def _candidates(space: Space, curves: Curves, limit: Limit, multiple_of: int) -> Iterator[Choice]:
    """Every combination of heads, layers and neurons with all the tokens that then fit and about the landing's size, the
    least damage first."""
    sizes = space.vocabulary_sizes
    least_counted = int(np.searchsorted(sizes, sizes[-1] - curves.vocabulary.most))
    columns: list[NDArray[np.float64]] = []
    smallest = np.inf
    for groups in (0, *space.head_options):
        for num_layers, depth in space.depths.items():
            kept = space.neuron_counts(num_layers, multiple_of)
            share = 1 - kept / sum(depth.widths)
            known = share <= curves.neurons.most + 1e-8  # the curves' file holds eight digits
            kept, share = kept[known], share[known]
            fixed, unit = _fixed_size(space, limit, groups, num_layers)
            left = limit.most - fixed - kept * space.per_neuron * unit
            smallest = min(smallest, limit.most - left.max() + sizes[least_counted] * space.per_row * unit)
            counted = np.searchsorted(sizes, left // (space.per_row * unit), side="right") - 1
            size = limit.most - left + sizes[counted] * space.per_row * unit
            # Headers shrink by some bytes when numbers lose a digit: who is just below the landing is looked at all the same.
            fits = (counted >= least_counted) & (size >= (LANDING - 0.005) * limit.most)
            damage = curves.heads.at(groups) + curves.layers.at(num_layers)
            damage = damage + curves.neurons.at(share) + curves.vocabulary.at(sizes[-1] - sizes[np.maximum(counted, least_counted)])
            rows = [np.full(kept.shape, groups), np.full(kept.shape, num_layers), kept, counted, damage]
            columns.append(np.stack(rows)[:, fits])
    if smallest > limit.most:
        raise UserError(
            f"params.yaml: {limit.said} is less than what can't go ({limit.text(smallest)}: one part of every resource stays)"
        )
    found = np.concatenate(columns, axis=1)
    for column in found[:, np.lexsort((-found[2], found[4]))].T:
        groups, num_layers, num_kept, num_counted = (int(value) for value in column[:4])
        yield Choice(groups, num_layers, num_kept, num_counted, float(column[4]))


def _fixed_size(space: Space, limit: Limit, num_removed_groups: int, num_removed_layers: int) -> tuple[int, int]:
    """What is left without neurons and tokens, in the limit's unit and never too low, and how many of it a parameter is."""
    bare = space.bare_sizes[num_removed_groups, num_removed_layers]
    if not limit.in_bytes:
        return bare, 1
    depth, num_groups = space.depths[num_removed_layers], space.num_groups - num_removed_groups
    whole = space.child(Outline(depth.layers, num_groups, depth.widths, int(space.vocabulary_sizes[-1])))
    header = weights_bytes(whole, space.dtype) - num_parameters(whole) * space.dtype.itemsize
    return bare * space.dtype.itemsize + header, space.dtype.itemsize


def freed(space: Space, outline: Outline, parent_rows: int) -> dict[str, int]:
    """Bytes of tensors that each kind frees: first the tokens, then layers, then heads, then neurons. They add up."""
    everything, whole = space.depths[0].layers, space.depths[0].widths
    uncut = [whole[index] for index in outline.layers]
    steps: Sequence[tuple[str, Outline]] = (
        ("", Outline(everything, space.num_groups, whole, parent_rows)),
        ("vocabulary", Outline(everything, space.num_groups, whole, outline.num_rows)),
        ("layers", Outline(outline.layers, space.num_groups, uncut, outline.num_rows)),
        ("heads", Outline(outline.layers, outline.num_groups, uncut, outline.num_rows)),
        ("MLP", outline),
    )
    sizes = [num_parameters(space.child(step)) * space.dtype.itemsize for _, step in steps]
    return {kind: before - after for (kind, _), before, after in zip(steps[1:], sizes, sizes[1:], strict=False)}
