"""Where a model's bytes are, read from the header of a checkpoint's weights file alone, or from an exported file's metrics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from minigpts import artifacts
from minigpts.model.experts import expert_part
from minigpts.model.families import spec_for
from minigpts.model.spec import ArchitectureSpec
from minigpts.model.weights import WEIGHTS, stored_tensors
from minigpts.quantization.groups import EMBEDDING, MLP_IN, MLP_OUT, QUERY_KEY, VALUE_OUTPUT

EMBEDDINGS, ATTENTION, MLP, OTHER = PARTS = ("embeddings", "attention", "MLP", "norms and other")
PART_OF = {EMBEDDING: EMBEDDINGS, QUERY_KEY: ATTENTION, VALUE_OUTPUT: ATTENTION, MLP_IN: MLP, MLP_OUT: MLP}


def bytes_by_part(directory: Path) -> dict[str, int]:
    """Bytes of the tensors of each of :data:`PARTS`; an untied LM head counts with the embeddings.

    Raises UserError for a file that isn't one of weights.
    """
    spec = spec_for(artifacts.read_json(directory / "config.json")["model_type"])
    totals = dict.fromkeys(PARTS, 0)
    for name, tensor in stored_tensors(directory / WEIGHTS).items():
        totals[_part(name, spec)] += tensor.num_bytes
    return totals


def bytes_of_groups(bytes_by_group: Mapping[str, int]) -> dict[str, int]:
    """``bytes_by_group`` of ``metrics/export.json``, by :data:`PARTS`; the file's header and tokenizer count with the rest."""
    totals = dict.fromkeys(PARTS, 0)
    for group, num_bytes in bytes_by_group.items():
        totals[PART_OF.get(group, OTHER)] += num_bytes
    return totals


def _part(name: str, spec: ArchitectureSpec) -> str:
    if name.startswith((f"{spec.embedding}.", f"{spec.stored_lm_head}.")):
        return EMBEDDINGS
    if not name.startswith(f"{spec.layers}."):
        return OTHER
    module = name.removeprefix(f"{spec.layers}.").partition(".")[2]
    if (
        module.startswith(tuple(f"{path}." for path in (*spec.mlp_in, spec.mlp_out) if path))
        or expert_part(spec, module) is not None
    ):
        return MLP
    return ATTENTION if module.startswith(tuple(f"{mixer}." for mixer in spec.mixers)) else OTHER
