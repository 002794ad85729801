"""What a cut leaves, to the last parameter and byte, from the parent's shapes alone."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from minigpts.model.experts import Part, has_expert_axis, part_of
from minigpts.model.spec import ArchitectureSpec
from minigpts.model.weights import TensorWriter, num_parameters
from minigpts.quantization.formats import FORMATS, num_bytes
from minigpts.quantization.groups import GROUPS, formats_of, group_of
from minigpts.vocabulary.embeddings import vocabulary_tensors

if TYPE_CHECKING:
    import torch

    from minigpts.model.weights import Shapes


@dataclass(frozen=True)
class Outline:
    """A child by its sizes."""

    layers: Sequence[int]  # of the parent, that stay
    num_groups: int  # key/value heads of each layer
    widths: Sequence[int]  # MLP neurons of each layer that stays
    num_rows: int  # tokens
    num_experts: int = 0  # of each layer that is a mixture


def child_shapes(parent: Shapes, spec: ArchitectureSpec, parent_groups: int, outline: Outline) -> Shapes:
    """Names and shapes of the child's tensors; ``parent_groups`` is the parent's number of key/value heads.

    Queries, keys, values and what reads them are all proportional to the groups, fused or not.
    """
    rows = vocabulary_tensors(spec)
    positions = {index: position for position, index in enumerate(outline.layers)}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in parent.items():
        if not name.startswith(f"{spec.layers}."):
            shapes[name] = (outline.num_rows, *shape[1:]) if name in rows else shape
            continue
        number, _, inner = name.removeprefix(f"{spec.layers}.").partition(".")
        position = positions.get(int(number))
        part = Part(inner) if spec.experts is None else part_of(spec.experts, inner)
        if position is not None and (part.expert is None or part.expert < outline.num_experts):
            shrunk = list(shape)
            module, _, kind = inner.rpartition(".")
            out_axis = 1 - spec.input_axis if kind == "weight" else 0
            if module in spec.mlp_in:
                shrunk[out_axis] = outline.widths[position] * spec.mlp_in_blocks
            elif module in spec.attention_in:
                shrunk[out_axis] = shape[out_axis] * outline.num_groups // parent_groups
            elif inner == f"{spec.mlp_out}.weight":
                shrunk[spec.input_axis] = outline.widths[position]
            elif inner == f"{spec.attention_out}.weight":
                shrunk[spec.input_axis] = shape[spec.input_axis] * outline.num_groups // parent_groups
            elif spec.experts is not None and part.expert is None and has_expert_axis(spec.experts, part.name):
                shrunk[0] = outline.num_experts
            shapes[spec.layer(position, inner)] = tuple(shrunk)
    return shapes


def weights_bytes(shapes: Shapes, dtype: torch.dtype) -> int:
    """Size of the safetensors file that holds tensors of ``shapes``, its header included."""
    header = TensorWriter(io.BytesIO(), shapes, dtype, {"format": "pt"}).data
    return header + num_parameters(shapes) * dtype.itemsize


def grouped(spec: ArchitectureSpec, shapes: Shapes) -> dict[str, str]:
    """The group of every tensor that is rounded, by name."""
    found = {name: group_of(spec.model_type, name, shape) for name, shape in shapes.items()}
    return {name: group for name, group in found.items() if group is not None}


def group_sizes(shapes: Shapes, spec: ArchitectureSpec, format_name: str | None) -> dict[str, int]:
    """Sizes by group of tensors, under "" what is never rounded: bytes in a file where every group is in one format and the rest
    in F32, or parameters where ``format_name`` is None."""
    sizes, groups = dict.fromkeys(("", *GROUPS), 0), grouped(spec, shapes)
    formats = {} if format_name is None else formats_of(spec.model_type, shapes, dict.fromkeys(GROUPS, format_name))
    for name, shape in shapes.items():
        size = math.prod(shape) if format_name is None else num_bytes(formats.get(name, FORMATS["F32"]), shape)
        sizes[groups.get(name, "")] += size
    return sizes
