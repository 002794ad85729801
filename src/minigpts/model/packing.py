"""From documents to equal sequences of token ids, without padding.

Documents are laid end to end, each between the token that leads it and the one that ends it, and the stream is cut every
``sequence_length`` tokens (packing as GPT pre-training does it). The token that leads a packed document leads a scored one,
so a model is tuned on the very context it is measured with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from minigpts.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedConfig

BATCH_TEXTS = 256  # encoded at a time: enough to keep every thread busy, little enough to stop early


@dataclass(frozen=True)
class Boundaries:
    """The token ids that stand around a document."""

    lead: int  # what the model expects before a text
    end: int  # what it says when a text is over


def encode_lazily(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[np.ndarray]:
    """The token ids of each text as int64 of shape (tokens,), without special tokens, a batch of texts ahead at most."""
    for start in range(0, len(texts), BATCH_TEXTS):
        batch = tokenizer.encode_batch_fast(list(texts[start : start + BATCH_TEXTS]), add_special_tokens=False)
        yield from (np.array(encoding.ids, dtype=np.int64) for encoding in batch)


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """The token ids of all texts, each int64 of shape (tokens,), without special tokens."""
    return list(encode_lazily(tokenizer, texts))


def pack_texts(
    tokenizer: Tokenizer, config: PreTrainedConfig, texts: Sequence[str], sequence_length: int, max_tokens: int | None = None
) -> np.ndarray:
    """The texts as :func:`pack` packs them, within the model's own boundaries; encodes no more of them than that takes."""
    return pack(encode_lazily(tokenizer, texts), boundaries(tokenizer, config), sequence_length, max_tokens)


def pack(documents: Iterable[np.ndarray], around: Boundaries, sequence_length: int, max_tokens: int | None = None) -> np.ndarray:
    """Cut the stream ``lead doc end lead doc end`` into int64 of shape (num_sequences, sequence_length).

    Where one token is both, it stands once between two documents. The incomplete last piece is dropped. With ``max_tokens``, at
    most that many tokens are packed (but one sequence at least) and no more documents are drawn than that takes, so a lazy
    iterable is never encoded to its end. Raises UserError when the documents don't fill one sequence.
    """
    limit = None if max_tokens is None else max(max_tokens // sequence_length, 1) * sequence_length
    lead = np.array([around.lead], dtype=np.int64)
    between = lead if around.lead == around.end else np.array([around.end, around.lead], dtype=np.int64)
    pieces = [lead]
    total = 1
    for document in documents:
        pieces += [document, between]
        total += len(document) + len(between)
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


def boundaries(tokenizer: Tokenizer, config: PreTrainedConfig) -> Boundaries:
    """The ids around a document: before it what the tokenizer itself puts first, after it the config's end of text.

    A tokenizer that adds nothing leaves it to the text before to end: such a model was trained on text behind its end of text.
    A config without one ends with its beginning of text. Raises UserError when it names neither.
    """
    named = (getattr(config, name, None) for name in ("eos_token_id", "bos_token_id"))
    firsts = (value[0] if isinstance(value, list | tuple) and value else value for value in named)
    end = next((int(value) for value in firsts if isinstance(value, int)), None)  # id 0 is a valid token
    if end is None:
        raise UserError("config.json: needs an eos_token_id or a bos_token_id, to separate documents with")
    added = tokenizer.encode("").ids
    return Boundaries(lead=added[0] if added else end, end=end)
