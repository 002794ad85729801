"""The model's side of a smaller vocabulary: rows of the embedding and of the lm_head, and the ids in the config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from minigpts.errors import UserError
from minigpts.model.spec import ArchitectureSpec
from minigpts.vocabulary.trim import rename_settings

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from minigpts.model.weights import NamedTensors, StoredWeights


def slice_vocabulary(stored: StoredWeights, spec: ArchitectureSpec, kept: Sequence[int]) -> NamedTensors:
    """The tensors by name, with the rows ``kept`` of the embedding, and of the lm_head and its bias where they are stored.

    A tied lm_head has no tensor of its own and stays tied. Embeddings often have more rows than the tokenizer has tokens;
    those rows are no token's and go too. Raises UserError when a token has no row.
    """
    num_rows = stored.shapes[f"{spec.embedding}.weight"][0]
    if kept[-1] >= num_rows:
        raise UserError(
            f"tokenizer.json: token id {kept[-1]} has no row in {spec.embedding} ({num_rows} rows); add the rows or drop the token"
        )
    rows, names = torch.tensor(kept), vocabulary_tensors(spec)
    return ((name, stored[name].index_select(0, rows) if name in names else entry) for name, entry in stored.entries.items())


def vocabulary_tensors(spec: ArchitectureSpec) -> set[str]:
    """Names of the tensors with a row for each token; of them a checkpoint holds those that it has."""
    return {f"{spec.embedding}.weight", f"{spec.stored_lm_head}.weight", f"{spec.stored_lm_head}.bias"}


def shrink_config(config: PreTrainedConfig, kept: Sequence[int]) -> None:
    """Give the config the new ``vocab_size`` and ids (the padding row of the embedding follows from ``pad_token_id``)."""
    for field, value in rename_settings(config.to_dict(), kept).items():
        setattr(config, field, value)
    config.vocab_size = len(kept)
