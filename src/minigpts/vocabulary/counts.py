"""How often each token occurs in the domain's text. Needs ``tokenizers`` and numpy alone: no torch, no transformers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from minigpts import artifacts, ranks
from minigpts.errors import UserError
from minigpts.prefetch import ahead

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BATCH_CHARACTERS = 1 << 18  # of text in one batch: long documents make short batches, so memory stays bounded


def tokens_of(tokenizer: Tokenizer) -> list[str | None]:
    """The tokenizer's tokens by id, added tokens included; None where an id has no token."""
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    tokens: list[str | None] = [None] * (max(vocab.values()) + 1)
    for token, token_id in vocab.items():
        tokens[token_id] = token
    return tokens


def num_ids(tokenizer: Tokenizer) -> int:
    """One more than the highest id: more than the number of tokens where ids have gaps."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def count_tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> NDArray[np.int64]:
    """Occurrences of each token id in ``texts``, (number of ids,).

    Documents are encoded whole and without the special tokens a post-processor would put around them, so the counts of
    two halves add up to the counts of the whole; several processes count a share each.
    """
    counts = np.zeros(num_ids(tokenizer), dtype=np.int64)
    # The fast variant leaves out the offsets, which nothing here reads.
    for encodings in ahead(tokenizer.encode_batch_fast(batch, add_special_tokens=False) for batch in ranks.share(_batches(texts))):
        ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), dtype=np.int64)
        counts += np.bincount(ids, minlength=len(counts))
    return ranks.added(counts)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def write_counts(path: Path, tokenizer: Tokenizer, counts: NDArray[np.int64]) -> None:
    """Write one row a token id, in order: ``token_id``, ``token`` (as the vocabulary spells it), ``count``."""
    artifacts.write_table(path, {"token_id": np.arange(len(counts)), "token": tokens_of(tokenizer), "count": counts})


def read_counts(path: Path, tokenizer: Tokenizer) -> NDArray[np.int64]:
    """The counts by token id. Raises UserError when they were made with another tokenizer, or count nothing."""
    table = artifacts.read_table(path, ["token_id", "token", "count"])
    tokens = tokens_of(tokenizer)
    if table["token_id"] != list(range(len(tokens))) or table["token"] != tokens:
        raise UserError(f"{path}: made with another tokenizer than the checkpoint's; run count_tokens with its tokenizer.json")
    counts = np.asarray(table["count"], dtype=np.int64)
    if counts.sum() == 0:
        raise UserError(f"{path}: counts no token at all; run count_tokens on a text that is not empty")
    return counts
