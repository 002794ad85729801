"""The parameters of speaking, as the stages read them. No torch here: a wrong value is refused at once."""

from __future__ import annotations

from dataclasses import dataclass

from minigpts.params import require


@dataclass(frozen=True)
class SpeechParams:
    """The ``speech`` section of params.yaml. A section of its own: tuning reads ``evaluate``, and has nothing to do with this."""

    tokens: int  # of a reply at most; 0: speech is not measured

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.tokens >= 0, "speech.tokens must be ≥ 0", self.tokens)
