"""The plan file: what prune_neurons, prune_embeddings and export must do. No torch here: without a budget nothing is loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from minigpts import artifacts


@dataclass(frozen=True)
class Plan:
    """Which part is whose: the first four fields are prune_neurons', ``num_counted_tokens`` is prune_embeddings', ``formats``
    export's."""

    num_removed_layers: int  # those that change the hidden state least
    num_removed_key_value_heads: int  # of every layer that stays, with their query heads
    num_removed_experts: int  # of every layer that stays and is a mixture
    widths: list[int]  # MLP neurons of each layer that stays
    num_counted_tokens: int  # tokens kept for their count: the most frequent; what builds or names tokens stays besides
    vocab_size: int  # that this leaves
    num_parameters: int  # of the child
    checkpoint_bytes: int  # of the child's weights file
    formats: dict[str, str] | None = None  # the block format of each group of tensors; None: section precision says it
    file_bytes: int | None = None  # of the exported file; None: as section precision has it


def write(path: Path, plan: Plan | None) -> None:
    """Write the plan; None says that params.yaml's thresholds hold."""
    artifacts.write_json(path, {"plan": None if plan is None else asdict(plan)})


def read(path: Path | None) -> Plan | None:
    """What :func:`write` wrote; None without a file."""
    if path is None:
        return None
    values = artifacts.read_json(path)["plan"]
    return None if values is None else Plan(**values)
