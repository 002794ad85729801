"""The model's side of a smaller vocabulary: rows of the embedding and of the lm_head, and the ids in the config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from minigpts.architectures.spec import ArchitectureSpec
from minigpts.errors import UserError
from minigpts.vocabulary.trim import rename_settings

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def slice_vocabulary(weights: Mapping[str, torch.Tensor], spec: ArchitectureSpec, kept: Sequence[int]) -> dict[str, torch.Tensor]:
    """The weights with the rows ``kept`` of the embedding, and of the lm_head and its bias where they are stored.

    A tied lm_head has no tensor of its own and stays tied. Embeddings often have more rows than the tokenizer has tokens;
    those rows are no token's and go too. Raises UserError when a token has no row.
    """
    rows = torch.tensor(kept)
    num_rows = weights[f"{spec.embedding}.weight"].shape[0]
    if kept[-1] >= num_rows:
        raise UserError(
            f"tokenizer.json: token id {kept[-1]} has no row in {spec.embedding} ({num_rows} rows); add the rows or drop the token"
        )
    names = {f"{spec.embedding}.weight", f"{spec.lm_head}.weight", f"{spec.lm_head}.bias"}
    return {name: tensor.index_select(0, rows) if name in names else tensor for name, tensor in weights.items()}


def shrink_config(config: PreTrainedConfig, kept: Sequence[int]) -> None:
    """Give the config the new ``vocab_size`` and ids (the padding row of the embedding follows from ``pad_token_id``)."""
    for field, value in rename_settings(config.to_dict(), kept).items():
        setattr(config, field, value)
    config.vocab_size = len(kept)
