"""Where each tensor of a checkpoint lies in its GGUF file, and in which order its rows: read both ways, so told once."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from minigpts.errors import UserError
from minigpts.gguf_layout.architecture import GgufArchitecture, head_dim, kv_heads
from minigpts.model.families import spec_for
from minigpts.model.spec import ArchitectureSpec
from minigpts.model.weights import Shapes

if TYPE_CHECKING:
    import numpy
    from transformers import PreTrainedConfig

# StableLM's norms of single heads, and the experts of a mixture, are rows of one tensor in the file.
STACKED = re.compile(r"(.*\.(?:norms|experts))\.(\d+)(.*)")


@dataclass(frozen=True)
class Place:
    """Where one tensor of the checkpoint lies."""

    name: str  # of the file's tensor
    shape: tuple[int, ...]  # (out_features, in_features), or (features,)
    row_order: numpy.ndarray | None = None  # the file's row i is row row_order[i] of the checkpoint's
    transposed: bool = False  # the checkpoint has (in_features, out_features)
    squeezed: bool = False  # the checkpoint has (channels, 1, kernel), of a convolution channel by channel
    logarithm: bool = False  # the checkpoint has x, the file −exp(x)
    offset: float = 0.0  # the file's values are larger by it
    stacked: tuple[int, int] | None = None  # its index among the tensors of its shape that the file has as one, and their number
    copy: str | None = None  # a second tensor of the file with the same contents


def places(architecture: GgufArchitecture, config: PreTrainedConfig, shapes: Shapes) -> dict[str, Place]:
    """The place of every tensor of a checkpoint with these ``shapes``, by transformers' name, in the file's order.

    Raises UserError for a tensor that the architecture has no place for.
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    (arch,) = [arch for arch, name in MODEL_ARCH_NAMES.items() if name == architecture.name]
    names = get_tensor_name_map(arch, config.num_hidden_layers)
    spec = spec_for(config.model_type)
    gated_norm = None if spec.recurrence is None else f"{spec.recurrence.module}.norm"  # scales by its weight alone
    found = {}
    for name, shape in shapes.items():
        module, _, suffix = name.rpartition(".")
        numbered = STACKED.fullmatch(module)
        stack = module if numbered is None else numbered[1].removesuffix(".norms") + numbered[3]
        if suffix == "dt_bias":  # Mamba's, and what follows it
            stack, suffix = f"{stack}.dt_proj", "bias"
        whole, stored = names.get_name(f"{stack}.{suffix}"), names.get_name(stack)
        if whole is None and stored is None:
            raise UserError(f"export: llama.cpp's {architecture.name} has no place for {name}; set export.formats: []")
        below = module.removeprefix(f"{spec.layers}.").partition(".")[2]
        transposed, squeezed = spec.is_transposed(name, shape), len(shape) == 3 and shape[1] == 1
        shape = shape[::-1] if transposed else (shape[0], shape[2]) if squeezed else shape
        norm = architecture.norms_plus_one and len(shape) == 1 and suffix == "weight" and below != gated_norm
        found[name] = Place(
            whole or f"{stored}.{suffix}",
            shape,
            _row_order(architecture, config, below, shape[0]),
            transposed,
            squeezed,
            suffix == "A_log",
            1.0 if norm else 0.0,
            None if numbered is None else (int(numbered[2]), _number(numbered, suffix, shapes)),
            _copy(architecture, config, spec, module),
        )
    return dict(sorted(found.items(), key=lambda entry: _file_order(entry[1].name)))


def _number(numbered: re.Match[str], suffix: str, shapes: Shapes) -> int:
    """How many tensors lie in one with this one."""
    return next(n for n in itertools.count() if f"{numbered[1]}.{n}{numbered[3]}.{suffix}" not in shapes)


def _file_order(name: str) -> tuple[int, int, str]:
    """Embedding and output first, then layer by layer."""
    parts = name.split(".")
    return (1, int(parts[1]), name) if parts[0] == "blk" else (0, 0, name)


def _copy(architecture: GgufArchitecture, config: PreTrainedConfig, spec: ArchitectureSpec, module: str) -> str | None:
    tied = architecture.head_required and config.tie_word_embeddings
    return "output.weight" if tied and module == spec.embedding else None


def _row_order(architecture: GgufArchitecture, config: PreTrainedConfig, below: str, num_rows: int) -> numpy.ndarray | None:
    """The order of the rows of a module below a layer; None where it is the checkpoint's own."""
    import numpy as np

    size, rows = head_dim(config), np.arange(num_rows)
    if below in architecture.interleaved:  # (heads, 2 halves, size / 2) → (heads, size / 2, 2 halves)
        return rows.reshape(-1, 2, size // 2).swapaxes(1, 2).reshape(-1)
    if below == architecture.fused_by_head:  # (heads, 3, size) → (3, heads, size)
        return rows.reshape(kv_heads(config), 3, size).swapaxes(0, 1).reshape(-1)
    return None
