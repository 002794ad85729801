"""A mixture's experts in the model, one parameter for all of a layer's, and in its weights file, most often a module for each.

The file's names are those of the hub, so that what is written loads elsewhere (transformers 4, vLLM, llama.cpp's converter);
transformers 5 joins the experts when it loads a file. Names below are relative to a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from minigpts.model.spec import ArchitectureSpec, Experts

if TYPE_CHECKING:
    from torch import Tensor

    from minigpts.model.weights import Shapes

GATE_UP, DOWN = "gate_up_proj", "down_proj"  # the parameters of every experts module whose file has a module for each expert


@dataclass(frozen=True)
class Part:
    """Where in the model a tensor of the weights file lies."""

    name: str  # of the model's tensor
    expert: int | None = None  # whose part of it; None: it is all of it
    index: int = 0  # among the ``number`` equal parts of the expert's rows
    number: int = 1

    def of(self, whole: Tensor) -> Tensor:
        """The part of the model's tensor, a view."""
        return whole if self.expert is None else whole[self.expert].chunk(self.number)[self.index]


def part_of(experts: Experts, stored: str) -> Part:
    """Where the tensor that the file calls ``stored`` lies."""
    name = _renamed(stored, {older: name for name, older in experts.older_names.items()})
    if experts.stored is None or not name.startswith(f"{experts.module}."):
        return Part(name)
    expert, projection, _ = name.removeprefix(f"{experts.module}.").split(".")
    index = experts.stored.index(projection)
    if index == 2:
        return Part(f"{experts.module}.{DOWN}", int(expert))
    return Part(f"{experts.module}.{GATE_UP}", int(expert), index, 2)


def expert_part(spec: ArchitectureSpec, stored: str) -> Part | None:
    """Where the tensor of an expert lies, or one of all experts; None for any other tensor of a layer."""
    if spec.experts is None:
        return None
    part = part_of(spec.experts, stored)
    return part if part.name.startswith(f"{spec.experts.module}.") else None


def stored_parts(experts: Experts, name: str, num_experts: int) -> Iterator[tuple[str, Part]]:
    """What the file calls the parts of the model's tensor ``name``, and where each lies."""
    module, _, parameter = name.rpartition(".")
    if experts.stored is None or module != experts.module:
        yield _renamed(name, experts.older_names), Part(name)
        return
    projections = experts.stored[:2] if parameter == GATE_UP else experts.stored[2:]
    for expert in range(num_experts):
        for index, projection in enumerate(projections):
            stored = _renamed(f"{module}.{expert}.{projection}.weight", experts.older_names)
            yield stored, Part(name, expert, index, len(projections))


def _renamed(name: str, renames: Mapping[str, str]) -> str:
    for beginning, other in renames.items():
        if name.startswith(beginning):
            return other + name.removeprefix(beginning)
    return name


def split_name(spec: ArchitectureSpec, name: str) -> tuple[str, str]:
    """A full name as what stands before the layer's own names ("model.layers.3."; "" outside the layers), and those."""
    if not name.startswith(f"{spec.layers}."):
        return "", name
    number, _, below = name.removeprefix(f"{spec.layers}.").partition(".")
    return spec.layer(int(number), ""), below


def as_stored(weights: Mapping[str, Tensor], spec: ArchitectureSpec) -> dict[str, Tensor]:
    """The tensors of a model by the names of its weights file, each expert's on its own (views)."""
    if spec.experts is None:
        return dict(weights)
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        before, below = split_name(spec, name)
        parts = stored_parts(spec.experts, below, len(tensor)) if before else [(below, Part(below))]
        found |= {before + stored: part.of(tensor) for stored, part in parts}
    return found


def as_in_model(tensors: Mapping[str, Tensor], spec: ArchitectureSpec) -> dict[str, Tensor]:
    """The tensors of one layer by their names in the model, the experts joined."""
    import torch

    if spec.experts is None:
        return dict(tensors)
    found: dict[str, Tensor] = {}
    experts: dict[str, dict[tuple[int, int], Tensor]] = {}
    for stored, tensor in tensors.items():
        part = part_of(spec.experts, stored)
        if part.expert is None:
            found[part.name] = tensor
        else:
            experts.setdefault(part.name, {})[part.expert, part.index] = tensor
    for name, parts in experts.items():
        number = 1 + max(index for _, index in parts)
        rows = torch.cat([parts[place] for place in sorted(parts)])
        found[name] = rows.view(len(parts) // number, -1, rows.shape[1])
    return found


def has_experts(spec: ArchitectureSpec, shapes: Shapes, index: int) -> bool:
    """Whether layer ``index`` of the file with ``shapes`` is a mixture."""
    return spec.experts is not None and spec.layer(index, _renamed(spec.experts.router[0], spec.experts.older_names)) in shapes


def has_expert_axis(experts: Experts, name: str) -> bool:
    """Whether the model's tensor ``name`` has the experts along its first axis."""
    return name in experts.router or name.startswith(f"{experts.module}.")


def keep(tensors: Mapping[str, Tensor], experts: Experts, kept: Tensor) -> dict[str, Tensor]:
    """The tensors of one layer, by the file's names, with the experts ``kept`` (sorted, int64) alone, numbered anew.

    What doesn't change is passed on as it is.
    """
    numbers = {expert: position for position, expert in enumerate(kept.tolist())}
    found = {}
    for stored, tensor in tensors.items():
        part = part_of(experts, stored)
        if part.expert is not None:
            if part.expert in numbers:
                found[_renumbered(experts, part, numbers[part.expert])] = tensor
        elif has_expert_axis(experts, part.name):
            found[stored] = tensor if len(tensor) == len(kept) else tensor.index_select(0, kept)
        else:
            found[stored] = tensor
    return found


def _renumbered(experts: Experts, part: Part, expert: int) -> str:
    """What the file calls the same part of another expert."""
    names = {place.index: name for name, place in stored_parts(experts, part.name, expert + 1) if place.expert == expert}
    return names[part.index]
