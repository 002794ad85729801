"""The families that are supported, by config.json's ``model_type``."""

from __future__ import annotations

from minigpts.architectures.gemma import GEMMA2, GEMMA3_TEXT
from minigpts.architectures.gpt import GPT2, GPT_NEOX
from minigpts.architectures.llama import LLAMA, MISTRAL
from minigpts.architectures.opt import OPT
from minigpts.architectures.phi import PHI, PHI3
from minigpts.architectures.qwen import QWEN2, QWEN3
from minigpts.architectures.spec import ArchitectureSpec
from minigpts.architectures.stablelm import STABLELM
from minigpts.errors import UserError

_ALL = (LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA2, GEMMA3_TEXT, PHI, PHI3, STABLELM, OPT, GPT2, GPT_NEOX)
SPECS = {spec.model_type: spec for spec in _ALL}


def spec_for(model_type: str) -> ArchitectureSpec:
    """The spec of a family. Raises UserError naming the supported ones, and the page that says how to add one."""
    if model_type not in SPECS:
        supported = ", ".join(sorted(SPECS))
        raise UserError(
            f"model_type '{model_type}' is not supported; supported: {supported}; docs/adding_an_architecture.md adds one"
        )
    return SPECS[model_type]
