"""Checks budget and export, and says whether there is a budget and which formats it allows; measure_damage knows no more of it, so
another target measures nothing anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minigpts import artifacts, params
from minigpts.errors import exit_cleanly
from minigpts.exporting.params import ExportParams
from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from minigpts.model.weights import StoredWeights
from minigpts.quantization.formats import FORMATS
from minigpts.quantization.params import Precision

FLAGS = {
    "model": "the parent's checkpoint folder",
    "out": "json to write",
}


@dataclass(frozen=True)
class Params:
    """The ``budget`` section."""

    target_size_reduction: float | None  # share of all parameters to remove at least
    target_megabytes: float | None  # 10^6 bytes of the exported file at most
    precisions: tuple[str, ...]  # block formats that a plan for target_megabytes may use
    trial_tokens: int  # of the training text that each of the three best plans is tuned on before one is chosen; 0: no trials

    def __post_init__(self) -> None:
        share, size = self.target_size_reduction, self.target_megabytes
        both = "budget.target_size_reduction and budget.target_megabytes can't both be set; make one of them null"
        params.require(share is None or size is None, both, (share, size))
        params.require(share is None or 0 < share < 1, "budget.target_size_reduction must be > 0 and < 1", share)
        params.require(size is None or size > 0, "budget.target_megabytes must be > 0", size)
        params.require(self.trial_tokens >= 0, "budget.trial_tokens must be ≥ 0", self.trial_tokens)
        known = [name for name, block_format in FORMATS.items() if block_format.levels]
        rule = f"budget.precisions must name one or more of {', '.join(known)}, each once"
        named = set(self.precisions)
        params.require(bool(named) and named <= set(known) and len(named) == len(self.precisions), rule, list(self.precisions))

    @property
    def is_set(self) -> bool:
        """Whether there is a target."""
        return self.target_size_reduction is not None or self.target_megabytes is not None


def main(argv: Sequence[str] | None = None) -> None:
    """Check the target against the parent, and write whether there is one, and the formats whose damage it needs."""
    arguments = params.flags(argv, __doc__, FLAGS)
    settings = params.read(arguments.params, Params, "budget")
    exported = params.read(arguments.params, ExportParams, "export")
    params.read(arguments.params, Precision, "precision")  # a wrong format is refused now, not when the child is tuned
    precisions = list(settings.precisions) if settings.target_megabytes is not None else []
    if exported.formats or precisions:
        from minigpts.exporting import onnx_files
        from minigpts.gguf_layout.architectures import architecture_of

        # What can't be exported is refused before anything is tuned.
        config = checkpoint.load_config(arguments.model)
        architecture_of(config)
        if "onnx" in exported.formats:
            onnx_files.require_buildable(config)
    if settings.is_set:
        from minigpts.budget.space import Limit, require_rows

        stored = StoredWeights(arguments.model)
        if precisions:
            require_rows(precisions, stored.shapes, spec_for(checkpoint.load_config(arguments.model).model_type))
        Limit.of(stored, settings.target_size_reduction, settings.target_megabytes)
    artifacts.write_json(arguments.out, {"budget": settings.is_set, "precisions": precisions})


if __name__ == "__main__":
    exit_cleanly(main)
