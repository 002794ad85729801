"""Chooses the combination of cuts and bits that is predicted to hurt least, among those that land within 1 % below the limit.

Damages are taken to add up, and a share of the neurons of fewer layers to hurt as the same share of all layers' does:
interactions make the sum too low for deep cuts, the second assumption makes it too high. Formats, heads, layers, experts and
neurons are gone through one by one, and the vocabulary takes what they leave: a token is the smallest unit there is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minigpts.budget.accounting import Outline
from minigpts.budget.curves import Curves, Damage, ratio_error
from minigpts.budget.space import Limit, Space
from minigpts.errors import UserError
from minigpts.quantization.groups import GROUPS

LANDING = 0.99  # of the limit at least
MOST = 4096  # candidates looked at for each pair of heads and layers, the least damage first
ALIKE = 0.1  # plans whose neurons and experts differ by less, and nothing but the tokens besides, have one shape
TRIES = 64  # candidates looked at exactly before the next finer widths are tried
CHUNK = 4096  # candidates whose damages to single documents are held at a time


@dataclass(frozen=True)
class Choice:
    """One combination."""

    num_removed_groups: int
    num_removed_layers: int
    num_removed_experts: int  # of every layer that is a mixture
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
    experts: NDArray[np.int64]  # removed from every layer
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
        heads, layers, experts, kept, counted, bits = (
            int(column[index]) for column in (self.heads, self.layers, self.experts, self.kept, self.counted, self.bits)
        )
        return Choice(heads, layers, experts, kept, counted, float(self.damage[index]), self.formats[bits])


def choose(space: Space, curves: Curves, limit: Limit, multiple_of: int, number: int = 1) -> tuple[list[Landed], Candidates]:
    """The plans of least predicted damage within the limit, ``number`` of different shape at most, and what they were chosen from.

    ``multiple_of`` is halved where widths in such steps can't land there. Raises UserError for a limit that is less than what
    can't go, more than the largest that can be had, or that nothing lands within 1 % below.
    """
    nearest = 0
    while True:
        found = candidates(space, curves, limit, multiple_of)
        landed: list[Landed] = []
        for choice in itertools.islice(_shapes(found, landed, space.num_experts), TRIES):
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


def _shapes(found: Candidates, landed: Sequence[Landed], num_experts: int) -> Iterator[Choice]:
    """The candidates, without those that have the shape of one of ``landed``, which grows meanwhile."""
    for index in range(len(found)):
        choice = found[index]
        if not any(_alike(choice, other.choice, num_experts) for other in landed):
            yield choice


def _alike(one: Choice, other: Choice, num_experts: int) -> bool:
    """Whether formats, heads and layers are the same, and the neurons and the experts, of ``num_experts`` a layer, nearly."""

    def near(a: int, b: int, of: int) -> bool:
        return a == b or abs(a - b) < ALIKE * of

    return (
        (one.formats, one.num_removed_groups, one.num_removed_layers)
        == (other.formats, other.num_removed_groups, other.num_removed_layers)
        and near(one.num_kept_neurons, other.num_kept_neurons, max(one.num_kept_neurons, other.num_kept_neurons))
        and near(one.num_removed_experts, other.num_removed_experts, num_experts)
    )


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


@dataclass(frozen=True)
class _Prices:
    """What is known of sizes and damages beforehand, for every combination."""

    space: Space
    curves: Curves
    limit: Limit
    multiple_of: int
    formats: Sequence[tuple[str, ...]]
    rounding: NDArray[np.float64]  # damage, of each of ``formats``
    tokens: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]]  # places in ``formats`` of one embedding, its tokens' sizes
    vocabulary: NDArray[np.float64]  # damage, over the tokens kept for their count
    least_counted: int  # of them

    @classmethod
    def of(cls, space: Space, curves: Curves, limit: Limit, multiple_of: int) -> _Prices:
        """For all that a space holds."""
        sizes = space.vocabulary_sizes
        formats = list(itertools.product(space.precisions, repeat=len(GROUPS))) if limit.in_bytes else [()]
        rounding = np.array([sum(found.bits_per_byte for found in _roundings(curves, each)) for each in formats])
        tokens = []
        for name in space.precisions if limit.in_bytes else (None,):
            places = [place for place, each in enumerate(formats) if not each or each[0] == name]
            tokens.append((np.array(places), space.token_sizes(limit, name)))
        least = int(np.searchsorted(sizes, sizes[-1] - curves.vocabulary.most))
        return cls(space, curves, limit, multiple_of, formats, rounding, tokens, curves.vocabulary.at(sizes[-1] - sizes), least)

    def of_cut(self, heads: int, layers: int, experts: int) -> _OfCut:
        """The candidates that lose so many heads, layers and experts, and the range of sizes that these can have."""
        kept = self.space.neuron_counts(layers, self.multiple_of)
        share = self.space.removed_share(layers, kept)
        known = share <= self.curves.neurons.most + 1e-8  # the curves' file holds eight digits
        kept, share = kept[known], share[known]
        cut = self.curves.heads.at(heads) + self.curves.layers.at(layers) + self.curves.experts.at(experts)
        cut = cut + self.curves.neurons.at(share)
        numbers, damages, ends = [], [], []
        for places, sizes in self.tokens:
            formats = [self.formats[n] for n in places]
            fixed = self.space.fixed_sizes(self.limit, heads, layers, experts, kept, self.multiple_of, formats)
            ends += [fixed.min() + sizes[self.least_counted], fixed.max() + sizes[-1]]
            counted = np.searchsorted(sizes, self.limit.most - fixed, side="right") - 1  # (formats, neurons)
            # Sizes here are right but for headers' bytes: what is just below the landing is looked at all the same.
            near = fixed + sizes[counted] >= (LANDING - 0.005) * self.limit.most
            row, column = np.nonzero((counted >= self.least_counted) & near)
            tokens, bits = counted[row, column], places[row]
            removed = (np.full_like(bits, number) for number in (heads, layers, experts))
            numbers.append(np.stack([*removed, kept[column], tokens, bits]))
            damages.append(self.rounding[bits] + cut[column] + self.vocabulary[tokens])
        damage = np.concatenate(damages)
        best = np.argsort(damage, kind="stable")[:MOST]
        return _OfCut(np.concatenate(numbers, axis=1)[:, best], damage[best], float(min(ends)), float(max(ends)))


class _OfCut(NamedTuple):
    numbers: NDArray[np.int64]  # heads, layers, experts, kept, counted, bits
    damage: NDArray[np.float64]
    smallest: float
    largest: float


def candidates(space: Space, curves: Curves, limit: Limit, multiple_of: int) -> Candidates:
    """Every combination of formats, heads, layers, experts and neurons with all the tokens that then fit, of about the right size.

    Raises UserError where none can be small or large enough.
    """
    prices = _Prices.of(space, curves, limit, multiple_of)
    options = itertools.product((0, *space.head_options), space.depths, (0, *space.expert_options))
    cuts = [prices.of_cut(*removed) for removed in options]
    _require_reachable(limit, min(cut.smallest for cut in cuts), max(cut.largest for cut in cuts))
    numbers, damage = np.concatenate([cut.numbers for cut in cuts], axis=1), np.concatenate([cut.damage for cut in cuts])
    order = np.lexsort((-numbers[3], damage))
    heads, layers, experts, kept, counted, bits = numbers[:, order]
    return Candidates(heads, layers, experts, kept, counted, bits, damage[order], prices.formats)


def _roundings(curves: Curves, formats: Sequence[str]) -> Iterator[Damage]:
    """What each group's rounding costs, in a format for each of GROUPS."""
    return (curves.rounding[group][name] for group, name in zip(GROUPS, formats, strict=False) if group in curves.rounding)


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
    is_chosen = (found.heads == chosen.num_removed_groups) & (found.layers == chosen.num_removed_layers)
    is_chosen &= found.experts == chosen.num_removed_experts
    is_chosen &= (found.kept == chosen.num_kept_neurons) & (found.bits == found.formats.index(chosen.formats))
    reference = _documents(found, np.nonzero(is_chosen)[0], space, curves)
    total = 0
    for part in np.array_split(np.nonzero(~is_chosen)[0], len(found) // CHUNK + 1):
        error = ratio_error(_documents(found, part, space, curves) - reference, curves.document_bytes)
        total += int((found.damage[part] - chosen.damage < error).sum())
    return total


def _documents(found: Candidates, part: NDArray[np.int64], space: Space, curves: Curves) -> NDArray[np.float64]:
    """The predicted damage (bits) of some candidates to each held-back document, (candidates, documents)."""
    number, sizes = len(curves.document_bytes), space.vocabulary_sizes
    shares = [space.removed_share(layers, kept) for layers, kept in zip(found.layers[part].tolist(), found.kept[part], strict=True)]
    bits = np.array([[rounded.documents for rounded in _roundings(curves, each)] for each in found.formats])
    return (
        bits.reshape(len(found.formats), -1, number).sum(1)[found.bits[part]]
        + curves.heads.documents_at(found.heads[part], number)
        + curves.layers.documents_at(found.layers[part], number)
        + curves.experts.documents_at(found.experts[part], number)
        + curves.neurons.documents_at(shares, number)
        + curves.vocabulary.documents_at(sizes[-1] - sizes[found.counted[part]], number)
    )


def freed(space: Space, outline: Outline, formats: Sequence[str], parent_rows: int) -> dict[str, int]:
    """Bytes of tensors that each kind frees: first the tokens, then layers, heads and neurons or experts, then fewer bits, group
    by group. They add up."""
    uncut = space.uncut(len(space.depths[0].layers) - len(outline.layers), outline.num_rows)
    steps: Sequence[tuple[str, Outline]] = (
        ("", space.uncut(0, parent_rows)),
        ("vocabulary", space.uncut(0, outline.num_rows)),
        ("layers", uncut),
        ("heads", replace(uncut, num_groups=outline.num_groups)),
        ("experts" if space.num_experts else "MLP", outline),
    )
    sizes = [space.stored_bytes(step) for _, step in steps]
    cuts = {kind: before - after for (kind, _), before, after in zip(steps[1:], sizes, sizes[1:], strict=False)}
    return {**cuts, **space.bytes_saved_by(outline, formats)}
