"""From documents to equal sequences of token ids, without padding.

Documents are laid end to end with a separator before each and after the last, ``sep doc sep doc sep``, and the stream
is cut every ``sequence_length`` tokens (packing as GPT pre-training does it). The separator that stands before a packed
document is the one that stands before a scored document, so a model is tuned on the very context it is measured with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from minigpts.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedConfig

BATCH_TEXTS = 256  # encoded at a time: enough to keep every thread busy, little enough to stop early


def encode_lazily(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[np.ndarray]:
    """The token ids of each text as int64 of shape (tokens,), without special tokens, a batch of texts ahead at most."""
    for start in range(0, len(texts), BATCH_TEXTS):
        batch = tokenizer.encode_batch_fast(list(texts[start : start + BATCH_TEXTS]), add_special_tokens=False)
        yield from (np.array(encoding.ids, dtype=np.int64) for encoding in batch)


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """The token ids of all texts, each int64 of shape (tokens,), without special tokens."""
    return list(encode_lazily(tokenizer, texts))


def pack(documents: Iterable[np.ndarray], separator: int, sequence_length: int, max_tokens: int | None = None) -> np.ndarray:
    """Cut the stream ``sep doc sep doc sep`` into int64 of shape (num_sequences, sequence_length).

    The incomplete last piece is dropped. With ``max_tokens``, at most that many tokens are packed (but one sequence at
    least) and no more documents are drawn than that takes, so a lazy iterable is never encoded to its end.
    Raises UserError when the documents don't fill one sequence.
    """
    limit = None if max_tokens is None else max(max_tokens // sequence_length, 1) * sequence_length
    pieces = [np.array([separator], dtype=np.int64)]
    total = 1
    for document in documents:
        pieces += [document, pieces[0]]
        total += len(document) + 1
        if limit is not None and total >= limit:
            total = limit
            break
    if total < sequence_length:
        raise UserError(
            f"the text has {total} tokens, less than one sequence of {sequence_length}; give more text or a smaller sequence_length"
        )
    rows = total // sequence_length
    return np.concatenate(pieces)[: rows * sequence_length].reshape(rows, sequence_length)


def require_positions(config: PreTrainedConfig, sequence_length: int, name: str) -> None:
    """Raise a UserError, naming the parameter, when sequences are longer than what the model was made for."""
    limit = config.max_position_embeddings
    if sequence_length > limit:
        raise UserError(f"params.yaml: {name} must be at most {limit}, the model's max_position_embeddings, got {sequence_length}")


def separator_id(config: PreTrainedConfig) -> int:
    """The token that stands between packed documents and before a scored one: end of text, else beginning of text.

    Raises UserError when the config names neither.
    """
    for name in ("eos_token_id", "bos_token_id"):
        value = getattr(config, name, None)
        if isinstance(value, list | tuple):
            value = value[0] if value else None
        if value is not None:  # id 0 is a valid token
            return int(value)
    raise UserError("config.json: needs an eos_token_id or a bos_token_id, to separate documents with")
