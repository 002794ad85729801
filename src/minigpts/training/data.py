"""The training text as rows of whole documents in a fixed order, so that any step's batch is known without those before it.

A row holds as many documents as it takes (:func:`minigpts.model.packing.pack_documents`), and each is computed as if by itself
(:func:`minigpts.model.forward.document_mask`): its positions start at 0 and it sees no other. A hybrid's recurrent layers would
carry their state from one document into the next, so for those families a batch is laid out anew, a document a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from minigpts import artifacts
from minigpts.errors import UserError
from minigpts.model import packing
from minigpts.model.packing import IGNORED, Boundaries, Spans
from minigpts.training.recipe import Recipe

if TYPE_CHECKING:
    from tokenizers import Tokenizer

GENERAL = -102  # the label of the first token of a row of general text, which is no target

Text = tuple[Sequence[str], Sequence[Spans | None]]  # documents, and which characters of each are targets; None: all


def draw_sequences(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    around: Boundaries,
    recipe: Recipe,
    general: Text = ((), ()),
    spans: Sequence[Spans | None] | None = None,
) -> tuple[np.ndarray, float]:
    """Pack documents in seeded order, as many as ``recipe.max_tokens`` takes, and the asked share of ``general`` text.

    Gives int64 (num_sequences, 2, sequence_length), ids and labels, and the share of ``texts``, by characters, that is among
    them. The order matters where that is not all of it: the first documents may be all of one kind. Where a text has ``spans``,
    only their tokens are targets, and a piece of it without any is left out. The first label of a row of ``general`` text is
    ``GENERAL``. Raises UserError when there is no text.
    """
    own = 1 - recipe.general_share
    rows, share = _draw(tokenizer, texts, spans, around, recipe, round(own * recipe.max_tokens))
    count = round(len(rows) * recipe.general_share / own)
    if count:
        others, _ = _draw(tokenizer, *general, around, recipe, count * recipe.sequence_length)
        others[:, 1, 0] = GENERAL
        shuffled = np.random.default_rng(recipe.seed).permutation(others)
        rows = np.concatenate([rows, np.resize(shuffled, (count, *rows.shape[1:]))])  # repeated where it is too little
    return rows, share


def _draw(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    spans: Sequence[Spans | None] | None,
    around: Boundaries,
    recipe: Recipe,
    max_tokens: int,
) -> tuple[np.ndarray, float]:
    order = np.random.default_rng(recipe.seed).permutation(len(texts))
    ordered, scored = [texts[index] for index in order], [None if spans is None else spans[index] for index in order]
    special = {token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    pieces: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    drawn = tokens = 0
    for document, those, (ids, wanted) in zip(
        ordered, scored, packing.encode_with_targets(tokenizer, ordered, scored), strict=True
    ):
        drawn += len(document)
        if len(ids):
            # Where the template ends the last reply with no token of its own, end of text is what the model is to say there.
            says_end = those is None or (bool(those) and those[-1][1] == len(document) and ids[-1] not in special)
            whole = np.concatenate([[False], wanted, [says_end]])
            cut = zip(
                packing.cut_document(ids, around, recipe.sequence_length), packing.cut(whole, recipe.sequence_length), strict=True
            )
            kept = [(piece, asked) for piece, asked in cut if asked[1:].any()]
            pieces += [piece for piece, _ in kept]
            targets += [asked for _, asked in kept]
            tokens += sum(len(piece) - 1 for piece, _ in kept) + bool(kept)
        if tokens >= max_tokens:
            break
    if not pieces:
        raise UserError("there is no text to train on; check the data set's splits and the general text")
    return packing.pack_documents(pieces, recipe.sequence_length, targets), drawn / sum(map(len, texts))


def read_text(path: Path) -> tuple[list[str], list[Spans | None]]:
    """The documents of a table, and which characters of each are targets: of a chat, what the assistant says; None: all."""
    columns = artifacts.read_table(path, ["text"], optional=["loss_spans"])
    return columns["text"], columns["loss_spans"]


def read_general(path: Path | None, general: str | None) -> Text:
    """The general text of ``finetune.general``, as :func:`read_text` gives it. Raises UserError when it is asked for and empty."""
    if general is None:
        return (), ()
    texts, spans = ([], []) if path is None else read_text(path)
    if not texts:
        advice = {"text": "set dataset.general_text to a file or folder", "parent": "set write_general.tokens"}
        raise UserError(f"params.yaml: finetune.general is {general}, but there is no such text; {advice[general]}")
    return texts, spans


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
    """A batch of ids, labels and where documents begin, each (sequences, sequence_length), and which are general (sequences,)."""
    ids, labels = torch.stack(list(rows), dim=1)
    general = labels[:, 0] == GENERAL
    begins = (labels == IGNORED) | (labels == GENERAL)
    return {"input_ids": ids, "labels": labels.where(labels >= 0, IGNORED), "begins": begins, "general": general}


def one_document_a_row(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch of :func:`collate` with the same targets, as many rows as documents, and padding on the right alone."""
    (starts,) = batch["begins"].flatten().nonzero(as_tuple=True)  # every token of padding is one, too
    lengths = torch.diff(starts, append=starts.new_tensor([batch["begins"].numel()]))
    starts, lengths = starts[lengths > 1], lengths[lengths > 1]
    places = torch.arange(int(lengths.max()), device=starts.device)
    padding = places >= lengths[:, None]
    index = torch.where(padding, 0, places) + starts[:, None]
    return {
        "input_ids": batch["input_ids"].flatten()[index],
        "labels": batch["labels"].flatten()[index].masked_fill(padding, IGNORED),
        "begins": padding | (places == 0),
        "general": batch["general"][starts // batch["begins"].shape[1]],
    }
