"""The training text as fixed sequences in a fixed order, so that any step's batch is known without the steps before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from minigpts.corpus import packing
from minigpts.training.recipe import Recipe

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def draw_sequences(tokenizer: Tokenizer, texts: Sequence[str], separator: int, recipe: Recipe) -> tuple[np.ndarray, float]:
    """Pack documents in seeded order, as many as ``recipe.max_tokens`` takes.

    Gives int64 (num_sequences, sequence_length) and the share of the text, by characters, that they come from. The order
    matters where that is not all of it: the first documents may be all of one kind.
    Raises UserError when the text doesn't fill one sequence.
    """
    order = np.random.default_rng(recipe.seed).permutation(len(texts))
    ordered = [texts[index] for index in order]
    drawn = 0

    def documents() -> Iterator[np.ndarray]:
        nonlocal drawn
        for text, ids in zip(ordered, packing.encode_lazily(tokenizer, ordered), strict=True):
            drawn += len(text)
            yield ids

    sequences = packing.pack(documents(), separator, recipe.sequence_length, max_tokens=recipe.max_tokens)
    return sequences, drawn / sum(map(len, texts))


class PackedSequences(torch.utils.data.Dataset):
    """The whole run's sequences, one after the other: every epoch is a new seeded permutation of all of them."""

    def __init__(self, sequences: np.ndarray, length: int, seed: int) -> None:
        """``sequences`` (num_sequences, sequence_length); ``length``: how many the run takes, over all epochs."""
        self.sequences = sequences
        epochs = -(-length // len(sequences))
        orders = [np.random.default_rng([seed, epoch]).permutation(len(sequences)) for epoch in range(epochs)]
        self.order = np.concatenate(orders)[:length]

    def __len__(self) -> int:
        """Sequences in the whole run."""
        return len(self.order)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Token ids (sequence_length,) of the run's ``index``-th sequence."""
        return torch.from_numpy(self.sequences[self.order[index]])


def collate(rows: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch (sequences, sequence_length) that is its own labels: the loss shifts them."""
    ids = torch.stack(list(rows))
    return {"input_ids": ids, "labels": ids}
