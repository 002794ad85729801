"""Tiny checkpoints that rounding to eight bits leaves as they are, so that the ONNX files must compute the same."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from minigpts.exporting.onnx_files import BLOCK_SIZE, PACKAGES
from minigpts.model import checkpoint
from minigpts.model.weights import StoredWeights
from tests import tiny

MISSING = any(find_spec(package) is None for package in PACKAGES)
REASON = "the extra onnx isn't installed"
SIZES = {"hidden_size": 64, "head_dim": 16}  # blocks of 32 divide the rows of 64, and not those of 77
STEP = 2.0**-9


def write_checkpoint(directory: Path, family: str = "llama", **changes: Any) -> Path:
    """A tiny checkpoint whose matrices eight bits hold: every block is whole steps of the scale that its largest weight gives."""
    model = tiny.write_checkpoint(directory.with_name(f"{directory.name}-any"), family, **{**SIZES, **changes})
    stored, config = StoredWeights(model), checkpoint.load_config(model)
    weights = {}
    for name, tensor in stored.items():
        if tensor.dim() == 2:
            tensor = (tensor / STEP).round().clamp(-127, 127) * STEP
            tensor[:, ::BLOCK_SIZE] = -128 * STEP
        weights[name] = tensor
    with checkpoint.saving(directory, config, weights.items(), companions=model):
        pass
    return directory
