"""Checks the budget, and says whether there is one; measure_damage knows no more of it, so another target measures nothing anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minigpts import artifacts, params
from minigpts.errors import exit_cleanly
from minigpts.model.weights import StoredWeights

FLAGS = {
    "model": "the parent's checkpoint folder",
    "out": "json to write",
}


@dataclass(frozen=True)
class Params:
    """The ``budget`` section."""

    target_size_reduction: float | None  # share of all parameters to remove at least
    target_megabytes: float | None  # 10^6 bytes of the weights file at most

    def __post_init__(self) -> None:
        share, size = self.target_size_reduction, self.target_megabytes
        both = "budget.target_size_reduction and budget.target_megabytes can't both be set; make one of them null"
        params.require(share is None or size is None, both, (share, size))
        params.require(share is None or 0 < share < 1, "budget.target_size_reduction must be > 0 and < 1", share)
        params.require(size is None or size > 0, "budget.target_megabytes must be > 0", size)

    @property
    def is_set(self) -> bool:
        """Whether there is a target."""
        return self.target_size_reduction is not None or self.target_megabytes is not None


def main(argv: Sequence[str] | None = None) -> None:
    """Check the target against the parent, and write whether there is one."""
    arguments = params.flags(argv, __doc__, FLAGS)
    settings = params.read(arguments.params, Params, "budget")
    if settings.is_set:
        from minigpts.budget.search import Limit

        Limit.of(StoredWeights(arguments.model), settings.target_size_reduction, settings.target_megabytes)
    artifacts.write_json(arguments.out, {"budget": settings.is_set})


if __name__ == "__main__":
    exit_cleanly(main)
