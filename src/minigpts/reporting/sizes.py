"""Where a checkpoint's bytes are, read from the header of its weights file alone."""

from __future__ import annotations

from pathlib import Path

from minigpts import artifacts
from minigpts.model.families import spec_for
from minigpts.model.spec import ArchitectureSpec
from minigpts.model.weights import WEIGHTS, stored_tensors

PARTS = ("embeddings", "attention", "MLP", "norms and other")


def bytes_by_part(directory: Path) -> dict[str, int]:
    """Bytes of the tensors of each of :data:`PARTS`; an untied LM head counts with the embeddings.

    Raises UserError for a file that isn't one of weights.
    """
    spec = spec_for(artifacts.read_json(directory / "config.json")["model_type"])
    totals = dict.fromkeys(PARTS, 0)
    for name, tensor in stored_tensors(directory / WEIGHTS).items():
        totals[_part(name, spec)] += tensor.num_bytes
    return totals


def _part(name: str, spec: ArchitectureSpec) -> str:
    if name.startswith((f"{spec.embedding}.", f"{spec.stored_lm_head}.")):
        return "embeddings"
    if not name.startswith(f"{spec.layers}."):
        return "norms and other"
    module = name.removeprefix(f"{spec.layers}.").partition(".")[2]
    if module.startswith(tuple(f"{path}." for path in (*spec.mlp_in, spec.mlp_out))):
        return "MLP"
    # The queries, keys and values are siblings of the projection that reads the heads.
    return "attention" if module.startswith(f"{spec.attention_out.rpartition('.')[0]}.") else "norms and other"
