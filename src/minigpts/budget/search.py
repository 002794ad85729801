"""Chooses the combination of cuts and bits that is predicted to hurt least, among those that land within 1 % below the limit.

Damages are taken to add up, and a share of the neurons of fewer layers to hurt as the same share of all layers' does:
interactions make the sum too low for deep cuts, the second assumption makes it too high. Formats, heads, layers and neurons are
gone through one by one, and the vocabulary takes what they leave: a token is the smallest unit there is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minigpts.budget.accounting import Outline
from minigpts.budget.curves import Curves, ratio_error
from minigpts.budget.space import Limit, Space
from minigpts.errors import UserError
from minigpts.quantization.groups import GROUPS

LANDING = 0.99  # of the limit at least
MOST = 4096  # candidates looked at for each pair of heads and layers, the least damage first
ALIKE = 0.1  # plans whose neurons differ by less of the parent's, and nothing but the tokens besides, have one shape
TRIES = 64  # candidates looked at exactly before the next finer widths are tried
CHUNK = 4096  # candidates whose damages to single documents are held at a time


@dataclass(frozen=True)
class Choice:
    """One combination."""

    num_removed_groups: int
    num_removed_layers: int
    num_kept_neurons: int  # of all layers that stay
    num_counted: int  # most frequent tokens that stay for their count
    damage: float  # predicted, bits per byte
    formats: tuple[str, ...] = ()  # of each of GROUPS; nothing where the limit is in parameters


class Landed(NamedTuple):
    """A choice that is within the limit, to the last byte."""

    choice: Choice
    outline: Outline
    size: int  # in the limit's unit


@dataclass(frozen=True)
class Candidates:
    """Combinations of about the right size, each with all the tokens that then fit; the least damage first."""

    heads: NDArray[np.int64]  # removed key/value groups
    layers: NDArray[np.int64]  # removed
    kept: NDArray[np.int64]  # neurons
    counted: NDArray[np.int64]  # tokens kept for their count
    bits: NDArray[np.int64]  # place in ``formats``
    damage: NDArray[np.float64]  # predicted
    formats: Sequence[tuple[str, ...]]  # every combination, a format for each of GROUPS

    def __len__(self) -> int:
        """How many."""
        return len(self.damage)

    def __getitem__(self, index: int) -> Choice:
        """One of them."""
        heads, layers, kept, counted, bits = (
            int(column[index]) for column in (self.heads, self.layers, self.kept, self.counted, self.bits)
        )
        return Choice(heads, layers, kept, counted, float(self.damage[index]), self.formats[bits])


def choose(space: Space, curves: Curves, limit: Limit, multiple_of: int, number: int = 1) -> tuple[list[Landed], Candidates]:
    """The plans of least predicted damage within the limit, ``number`` of different shape at most, and what they were chosen from.

    ``multiple_of`` is halved where widths in such steps can't land there. Raises UserError for a limit that is less than what
    can't go, more than the largest that can be had, or that nothing lands within 1 % below.
    """
    nearest = 0
    while True:
        found = candidates(space, curves, limit, multiple_of)
        landed: list[Landed] = []
        for choice in itertools.islice(_shapes(found, landed), TRIES):
            plan = _fitted(space, limit, choice, multiple_of)
            if plan is not None and LANDING * limit.most <= plan.size:
                landed.append(plan)
            nearest = max(nearest, plan.size if plan else 0)
            if len(landed) == number:
                break
        if landed:
            return landed, found
        if multiple_of == 1:
            raise UserError(
                f"params.yaml: nothing lands within 1 % below {limit.said} ({limit.text(limit.most)});"
                f" the nearest cut leaves {limit.text(nearest)}: ask for that"
            )
        multiple_of //= 2


def _shapes(found: Candidates, landed: Sequence[Landed]) -> Iterator[Choice]:
    """The candidates, without those that have the shape of one of ``landed``, which grows meanwhile."""
    for index in range(len(found)):
        choice = found[index]
        if not any(_alike(choice, other.choice) for other in landed):
            yield choice


def _alike(one: Choice, other: Choice) -> bool:
    """Whether formats, heads and layers are the same, and the neurons nearly."""
    same = replace(one, num_kept_neurons=0, num_counted=0, damage=0.0) == replace(
        other, num_kept_neurons=0, num_counted=0, damage=0.0
    )
    return same and abs(one.num_kept_neurons - other.num_kept_neurons) < ALIKE * max(one.num_kept_neurons, other.num_kept_neurons)


def _fitted(space: Space, limit: Limit, choice: Choice, multiple_of: int) -> Landed | None:
    """The choice with as many tokens less as it takes to be within the limit exactly; None where there are none to give."""
    while choice.num_counted >= 0:
        outline = space.outline(choice, multiple_of)
        size = space.size(limit, outline, choice)
        if size <= limit.most:
            return Landed(choice, outline, size)
        rows = -(-(size - limit.most) // max(space.per_row(limit, choice.formats), 1))
        fewer = np.searchsorted(space.vocabulary_sizes, outline.num_rows - rows, side="right") - 1
        choice = replace(choice, num_counted=min(int(fewer), choice.num_counted - 1))
    return None


def candidates(space: Space, curves: Curves, limit: Limit, multiple_of: int) -> Candidates:
    """Every combination of formats, heads, layers and neurons with all the tokens that then fit and about the landing's size."""
    sizes = space.vocabulary_sizes
    least = int(np.searchsorted(sizes, sizes[-1] - curves.vocabulary.most))
    formats = list(itertools.product(space.precisions, repeat=len(GROUPS))) if limit.in_bytes else [()]
    vocabulary = curves.vocabulary.at(sizes[-1] - sizes)
    rounding = np.array(
        [sum(curves.rounding[g][f].bits_per_byte for g, f in zip(GROUPS, each) if g in curves.rounding) for each in formats]
    )
    tokens = {name: space.token_sizes(limit, name) for name in (space.precisions if limit.in_bytes else (None,))}
    smallest, largest = np.inf, 0.0
    parts: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
    for heads, layers in itertools.product((0, *space.head_options), space.depths):
        kept = space.neuron_counts(layers, multiple_of)
        share = 1 - kept / sum(space.depths[layers].widths)
        known = share <= curves.neurons.most + 1e-8  # the curves' file holds eight digits
        kept, share = kept[known], share[known]
        cut = float(curves.heads.at(heads) + curves.layers.at(layers))
        columns = []
        for name, of_tokens in tokens.items():  # by the embedding's format, whose tokens have their own sizes
            places = np.array([place for place, each in enumerate(formats) if not each or each[0] == name])
            fixed = np.stack([space.fixed_size(limit, heads, layers, kept, multiple_of, formats[place]) for place in places])
            smallest, largest = min(smallest, fixed.min() + of_tokens[least]), max(largest, fixed.max() + of_tokens[-1])
            counted = np.searchsorted(of_tokens, limit.most - fixed, side="right") - 1  # (formats, neurons)
            # Sizes here are right but for headers' bytes: who is just below the landing is looked at all the same.
            near = fixed + of_tokens[counted] >= (LANDING - 0.005) * limit.most
            row, column = np.nonzero((counted >= least) & near)
            number, neurons = counted[row, column], column
            damage = cut + rounding[places[row]] + curves.neurons.at(share)[neurons] + vocabulary[number]
            columns.append((np.stack([number * 0 + heads, number * 0 + layers, kept[neurons], number, places[row]]), damage))
        numbers, damage = np.concatenate([c[0] for c in columns], axis=1), np.concatenate([c[1] for c in columns])
        best = np.argsort(damage, kind="stable")[:MOST]
        parts.append((numbers[:, best], damage[best]))
    _require_reachable(limit, smallest, largest)
    numbers, damage = np.concatenate([p[0] for p in parts], axis=1), np.concatenate([p[1] for p in parts])
    order = np.lexsort((-numbers[2], damage))
    heads_, layers_, kept_, counted_, bits_ = numbers[:, order]
    return Candidates(heads_, layers_, kept_, counted_, bits_, damage[order], formats)


def _require_reachable(limit: Limit, smallest: float, largest: float) -> None:
    if smallest > limit.most:
        raise UserError(
            f"params.yaml: {limit.said} is less than what can't go ({limit.text(smallest)}: one part of every resource stays)"
        )
    if largest < LANDING * limit.most:
        raise UserError(
            f"params.yaml: {limit.said} is more than the largest file that budget.precisions allow ({limit.text(largest)});"
            " lower it"
        )


def num_equal(found: Candidates, chosen: Choice, space: Space, curves: Curves) -> int:
    """How many candidates of another shape are predicted to hurt no more than ``chosen`` by the standard error of the difference.

    That is the error of the two plans' damages to the same documents.
    """
    if not len(curves.document_bytes):
        return 0
    (same,) = np.nonzero(
        (found.heads == chosen.num_removed_groups)
        & (found.layers == chosen.num_removed_layers)
        & (found.kept == chosen.num_kept_neurons)
        & (np.array([each == chosen.formats for each in found.formats])[found.bits])
    )
    reference = _documents(found, same[:1], space, curves)
    total = 0
    for start in range(0, len(found), CHUNK):
        part = np.arange(start, min(start + CHUNK, len(found)))
        error = ratio_error(_documents(found, part, space, curves) - reference, curves.document_bytes)
        total += int((found.damage[part] - chosen.damage < error).sum())
    return total - len(same) if total else 0


def _documents(found: Candidates, part: NDArray[np.int64], space: Space, curves: Curves) -> NDArray[np.float64]:
    """The predicted damage (bits) of some candidates to each held-back document, (candidates, documents)."""
    number = len(curves.document_bytes)
    uncut = np.array([sum(space.depths[layers].widths) for layers in found.layers[part].tolist()])
    bits = np.array(
        [
            np.sum(
                [curves.rounding[g][f].documents for g, f in zip(GROUPS, each) if g in curves.rounding] or [[0.0] * number], axis=0
            )
            for each in found.formats
        ]
    )
    sizes = space.vocabulary_sizes
    return (
        bits[found.bits[part]]
        + curves.heads.documents_at(found.heads[part], number)
        + curves.layers.documents_at(found.layers[part], number)
        + curves.neurons.documents_at(1 - found.kept[part] / uncut, number)
        + curves.vocabulary.documents_at(sizes[-1] - sizes[found.counted[part]], number)
    )


def freed(space: Space, outline: Outline, formats: Sequence[str], parent_rows: int) -> dict[str, int]:
    """Bytes of tensors that each kind frees: first the tokens, then layers, heads and neurons, then fewer bits, group by group.
    They add up."""
    everything, whole = space.depths[0].layers, space.depths[0].widths
    uncut = [whole[index] for index in outline.layers]
    steps: Sequence[tuple[str, Outline]] = (
        ("", Outline(everything, space.num_groups, whole, parent_rows)),
        ("vocabulary", Outline(everything, space.num_groups, whole, outline.num_rows)),
        ("layers", Outline(outline.layers, space.num_groups, uncut, outline.num_rows)),
        ("heads", Outline(outline.layers, outline.num_groups, uncut, outline.num_rows)),
        ("MLP", outline),
    )
    sizes = [space.stored_bytes(step) for _, step in steps]
    cuts = {kind: before - after for (kind, _), before, after in zip(steps[1:], sizes, sizes[1:], strict=False)}
    return {**cuts, **space.bytes_saved_by(outline, formats)}
