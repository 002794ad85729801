"""The ``export`` section of params.yaml. No torch here: a wrong value is refused at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from minigpts.params import require

SEQUENCE_LENGTH = 512  # tokens in one packed sequence of calibration text, at most


@dataclass(frozen=True)
class ExportParams:
    """What is written, and how much text its weights are rounded for and then tuned on."""

    formats: tuple[Literal["gguf", "onnx"], ...]  # what to write: nothing, gguf, or gguf and onnx
    tokens: int  # of calibration text that rounding is fitted to
    scale_tokens: int  # of training text that the blocks' scales are then tuned on; 0: they stay as rounding chose them

    def __post_init__(self) -> None:
        """Check ranges."""
        known = "export.formats must be [], [gguf] or [gguf, onnx]"
        require(self.formats in ((), ("gguf",), ("gguf", "onnx")), known, list(self.formats))
        require(self.tokens >= SEQUENCE_LENGTH, f"export.tokens must be ≥ {SEQUENCE_LENGTH}", self.tokens)
        require(self.scale_tokens >= 0, "export.scale_tokens must be ≥ 0", self.scale_tokens)
