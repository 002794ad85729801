"""The training text as rows of whole documents in a fixed order, so that any step's batch is known without those before it.

A row holds as many documents as it takes, ``lead doc end lead doc end …``, and each is computed as if it stood alone: its
positions start at 0 and it sees no other. So a model is tuned on the very context it is scored with, and there is next to
no padding, which fills half of the usual batches of one document a row. (Best-fit packing without truncation: arXiv 2404.10830.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from minigpts import artifacts
from minigpts.errors import UserError
from minigpts.evaluation.multiple_choice import attention_mask
from minigpts.model import packing
from minigpts.model.loss import IGNORED
from minigpts.model.packing import Boundaries
from minigpts.training.recipe import Recipe

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel


def draw_sequences(
    tokenizer: Tokenizer, texts: Sequence[str], around: Boundaries, recipe: Recipe, general: Sequence[str] = ()
) -> tuple[np.ndarray, float]:
    """Pack documents in seeded order, as many as ``recipe.max_tokens`` takes, and the asked share of ``general`` text.

    Gives int64 (num_sequences, 2, sequence_length), ids and labels, and the share of ``texts``, by characters, that is among
    them. The order matters where that is not all of it: the first documents may be all of one kind.
    Raises UserError when there is no text.
    """
    own = 1 - recipe.general_share
    rows, share = _draw(tokenizer, texts, around, recipe, round(own * recipe.max_tokens))
    count = round(len(rows) * recipe.general_share / own)
    if count:
        others, _ = _draw(tokenizer, general, around, recipe, count * recipe.sequence_length)
        shuffled = np.random.default_rng(recipe.seed).permutation(others)
        rows = np.concatenate([rows, np.resize(shuffled, (count, *rows.shape[1:]))])  # repeated where it is too little
    return rows, share


def _draw(
    tokenizer: Tokenizer, texts: Sequence[str], around: Boundaries, recipe: Recipe, max_tokens: int
) -> tuple[np.ndarray, float]:
    ordered = [texts[index] for index in np.random.default_rng(recipe.seed).permutation(len(texts))]
    parts: list[np.ndarray] = []
    drawn = tokens = 0
    for document, ids in zip(ordered, packing.encode_lazily(tokenizer, ordered), strict=True):
        drawn += len(document)
        if len(ids):
            parts += pieces(ids, around, recipe.sequence_length)
            tokens += len(ids) + 2
        if tokens >= max_tokens:
            break
    if not parts:
        raise UserError("there is no text to train on; check the data set's splits and dataset.general_text")
    return pack(parts, recipe.sequence_length), drawn / sum(map(len, texts))


def read_general_text(path: Path | None, share: float) -> list[str]:
    """The documents of the general text, if it has a share. Raises UserError when there are none."""
    if share == 0:
        return []
    texts = [] if path is None else artifacts.read_table(path, ["text"])["text"]
    if not texts:
        raise UserError("finetune.general_share > 0 needs general text; set dataset.general_text to a file or folder")
    return texts


def pieces(ids: np.ndarray, around: Boundaries, sequence_length: int) -> Iterator[np.ndarray]:
    """``lead ids end`` as it is, or cut so that every token is once predicted by those before it in its piece, if too long."""
    whole = np.concatenate([[around.lead], ids, [around.end]])
    for start in range(0, len(whole) - 1, sequence_length - 1):
        yield whole[start : start + sequence_length]


def pack(parts: Sequence[np.ndarray], sequence_length: int) -> np.ndarray:
    """Lay pieces into rows, longest first, each where it leaves the least room; gives (num_sequences, 2, sequence_length)."""
    members: list[list[int]] = []  # of each row
    with_room: list[list[int]] = [[] for _ in range(sequence_length + 1)]  # rows by the tokens that still fit
    for index in sorted(range(len(parts)), key=lambda index: -len(parts[index])):
        length = len(parts[index])
        room = next((room for room in range(length, sequence_length) if with_room[room]), sequence_length)
        if room == sequence_length:
            members.append([])
            with_room[room].append(len(members) - 1)
        row = with_room[room].pop()
        members[row].append(index)
        with_room[room - length].append(row)
    return np.stack([_row([parts[index] for index in row], sequence_length) for row in members])


def _row(parts: Sequence[np.ndarray], sequence_length: int) -> np.ndarray:
    """Ids and labels of one row, (2, sequence_length). The room left is padded with a token it has: any will do."""
    ids, labels = np.full(sequence_length, parts[0][0]), np.full(sequence_length, IGNORED)
    start = 0
    for part in parts:
        ids[start : start + len(part)] = part
        labels[start + 1 : start + len(part)] = part[1:]
        start += len(part)
    return np.stack([ids, labels])


def alone(model: PreTrainedModel, labels: torch.Tensor) -> dict[str, torch.Tensor | dict[str, torch.Tensor]]:
    """The ``position_ids`` and the ``attention_mask`` by which every document of a batch (rows, tokens) stands alone.

    A document begins wherever a token is no target, so every token of padding is one. The mask is ours and not what
    transformers derives from positions that start anew, since not all families do that (OPT).
    """
    places = torch.arange(labels.shape[1], device=labels.device)
    first = labels == IGNORED
    positions = places - torch.where(first, places, 0).cummax(dim=1).values
    document = first.cumsum(dim=1)
    visible = (document[:, :, None] == document[:, None, :]) & (places[:, None] >= places)
    return {"position_ids": positions, "attention_mask": attention_mask(model, visible[:, None], positions)}


class PackedSequences(torch.utils.data.Dataset):
    """The whole run's sequences, one after the other: every epoch is a new seeded permutation of all of them."""

    def __init__(self, sequences: np.ndarray, length: int, seed: int) -> None:
        """``sequences`` (num_sequences, 2, sequence_length); ``length``: how many the run takes, over all epochs."""
        self.sequences = sequences
        epochs = -(-length // len(sequences))
        orders = [np.random.default_rng([seed, epoch]).permutation(len(sequences)) for epoch in range(epochs)]
        self.order = np.concatenate(orders)[:length]

    def __len__(self) -> int:
        """Sequences in the whole run."""
        return len(self.order)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Token ids and labels (2, sequence_length) of the run's ``index``-th sequence."""
        return torch.from_numpy(self.sequences[self.order[index]])


def collate(rows: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch of ids and labels, each (sequences, sequence_length)."""
    ids, labels = torch.stack(list(rows), dim=1)
    return {"input_ids": ids, "labels": labels}
