"""The parameters of scoring, as the stages read them. No torch here: a wrong value is refused at once."""

from __future__ import annotations

from dataclasses import dataclass

from minigpts.errors import UserError


@dataclass(frozen=True)
class EvaluateParams:
    """The ``evaluate`` section of params.yaml: fine-tuning's validation scores are made with it too, so that they compare."""

    sequence_length: int  # longer documents are scored in windows of this many tokens

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.sequence_length < 1:
            raise UserError(f"params.yaml: evaluate.sequence_length must be ≥ 1, got {self.sequence_length}")
