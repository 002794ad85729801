"""The parameters of scoring, as the stages read them. No torch here: a wrong value is refused at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from minigpts.errors import UserError
from minigpts.model.chat_template import ChatTemplate


@dataclass(frozen=True)
class EvaluateParams:
    """The ``evaluate`` section of params.yaml: fine-tuning's validation scores are made with it too, so that they compare."""

    sequence_length: int  # longer documents are scored in windows of this many tokens
    chat: bool  # ask the multiple-choice questions through the model's chat template

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.sequence_length < 1:
            raise UserError(f"params.yaml: evaluate.sequence_length must be ≥ 1, got {self.sequence_length}")

    def template(self, directory: Path) -> ChatTemplate | None:
        """The template of a checkpoint folder that its questions are asked through; None: they are asked as plain text.

        Raises UserError for a folder without one.
        """
        if not self.chat:
            return None
        template = ChatTemplate.of(directory)
        if template is None:
            raise UserError(f"params.yaml: evaluate.chat is true, but {directory} has no chat template; set it to false")
        return template
