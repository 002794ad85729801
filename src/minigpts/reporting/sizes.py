"""Where a checkpoint's bytes are, read from the header of its weights file alone."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from minigpts import artifacts
from minigpts.architectures.registry import spec_for
from minigpts.architectures.spec import ArchitectureSpec
from minigpts.checkpoint import WEIGHTS
from minigpts.errors import UserError

PARTS = ("embeddings", "attention", "MLP", "norms and other")


def bytes_by_part(directory: Path) -> dict[str, int]:
    """Bytes of the tensors of each of :data:`PARTS`; an untied LM head counts with the embeddings.

    Reads the safetensors header: its length as a little-endian 64-bit number, then JSON with each tensor's offsets
    (https://github.com/huggingface/safetensors#format). Raises UserError for a file that isn't one.
    """
    spec = spec_for(artifacts.read_json(directory / "config.json")["model_type"])
    path = directory / WEIGHTS
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, path.stat().st_size)))
    except (struct.error, ValueError):
        raise UserError(f"{path}: not a readable safetensors file; make it again") from None
    header.pop("__metadata__", None)
    totals = dict.fromkeys(PARTS, 0)
    for name, tensor in header.items():
        begin, end = tensor["data_offsets"]
        totals[_part(name, spec)] += end - begin
    return totals


def _part(name: str, spec: ArchitectureSpec) -> str:
    if name.startswith((f"{spec.embedding}.", f"{spec.lm_head}.")):
        return "embeddings"
    if not name.startswith(f"{spec.layers}."):
        return "norms and other"
    module = name.removeprefix(f"{spec.layers}.").partition(".")[2]
    if module.startswith(tuple(f"{path}." for path in (*spec.mlp_in, spec.mlp_out))):
        return "MLP"
    # The queries, keys and values are siblings of the projection that reads the heads.
    return "attention" if module.startswith(f"{spec.attention_out.rpartition('.')[0]}.") else "norms and other"
