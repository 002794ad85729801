"""The families that are supported, by config.json's ``model_type``."""

from __future__ import annotations

from minigpts.architectures.llama import LLAMA
from minigpts.architectures.opt import OPT
from minigpts.architectures.spec import ArchitectureSpec
from minigpts.errors import UserError

SPECS = {spec.model_type: spec for spec in (LLAMA, OPT)}


def spec_for(model_type: str) -> ArchitectureSpec:
    """The spec of a family. Raises UserError naming the supported ones."""
    if model_type not in SPECS:
        raise UserError(f"model_type '{model_type}' is not supported; supported: {', '.join(sorted(SPECS))}")
    return SPECS[model_type]
