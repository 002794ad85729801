"""Let the parent write general text, where tokens are asked for: what fine-tuning blends in by finetune.general: parent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minigpts import artifacts, params
from minigpts.errors import exit_cleanly
from minigpts.model.weights import StoredWeights, num_parameters

FLAGS = {
    "model": "the parent's checkpoint folder",
    "out": "parquet of text to write",
    "metrics": "json to write",
}


@dataclass(frozen=True)
class Params:
    """The ``write_general`` section of params.yaml."""

    tokens: int  # that the parent writes and that are kept; 0: none
    seed: int  # of what it writes

    def __post_init__(self) -> None:
        """Check ranges."""
        params.require(self.tokens >= 0, "write_general.tokens must be ≥ 0", self.tokens)
        params.require(0 <= self.seed < 2**32, "write_general.seed must be ≥ 0 and < 2^32", self.seed)


def main(argv: Sequence[str] | None = None) -> None:
    """Let it write, or leave an empty table."""
    arguments = params.flags(argv, __doc__, FLAGS)
    settings = params.read(arguments.params, Params, "write_general")
    runtime = params.read(arguments.params, params.Runtime, "runtime")
    metrics: dict[str, Any] = {}
    if settings.tokens == 0:
        with artifacts.table_writer(arguments.out, ["text", "loss_spans"]):
            pass
    else:
        from minigpts.corpus import written
        from minigpts.model.device import computed_on, device, require_memory

        where, whole = device(runtime), 4 * num_parameters(StoredWeights(arguments.model).shapes)
        require_memory(whole, where, "writing", "set write_general.tokens to 0")
        made = written.write(
            arguments.model, arguments.out, settings.tokens, settings.seed, where=where, batch_tokens=runtime.batch_tokens
        )
        metrics = {**made, "computed_on": computed_on(where)}
    artifacts.write_json(arguments.metrics, metrics)


if __name__ == "__main__":
    exit_cleanly(main)
