"""The ``precision`` section of params.yaml: the block format of each group of weights. No torch here, so that stages start fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from minigpts.params import require
from minigpts.quantization.formats import FORMATS


@dataclass(frozen=True)
class Precision:
    """A format for each group of weights; one whose rows are no multiple of its block falls to F16."""

    embedding: str  # token embedding and lm_head
    query_key: str  # what makes queries and keys
    value_output: str  # what makes values and what reads the heads; also queries, keys and values in one weight
    mlp_in: str  # what makes the MLP neurons
    mlp_out: str  # what reads them

    def __post_init__(self) -> None:
        """Refuse a format that isn't known."""
        for group, name in asdict(self).items():
            require(name in FORMATS, f"precision.{group} must be one of {', '.join(FORMATS)}", name)

    def by_group(self) -> Mapping[str, str]:
        """The formats under their groups' names."""
        return asdict(self)
