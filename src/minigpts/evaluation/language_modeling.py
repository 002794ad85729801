"""How well a model predicts text: summed log-likelihood per byte, which compares across vocabularies.

Every document is scored on its own and every one of its tokens counts, as lm-evaluation-harness's
``loglikelihood_rolling`` does it: behind the BOS token of this model, and a document longer than a window is cut into disjoint
windows that each see the one token before them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from minigpts import ranks
from minigpts.errors import UserError
from minigpts.model import packing
from minigpts.model.forward import hidden_states_of, log_likelihoods
from minigpts.model.packing import Spans

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from minigpts.model.forward import Model

# Padding tokens in one batch. On a CPU a forward more costs about what 64 of them do, in reading the weights (measured on two
# cores with 135M parameters). A GPU computes a batch in little more time than it takes to launch it, so there batches are
# filled, and padding may take a quarter of one.
CPU_PADDING = 64
GPU_PADDING_SHARE = 0.25


@dataclass(frozen=True)
class LanguageModelingResult:
    """The summed negative log-likelihood of a text, and the units to divide it by."""

    nats: float
    bytes: int  # UTF-8
    tokens: int  # of the scoring model's own tokenizer; BOS tokens don't count
    document_nats: tuple[float, ...]  # the same of each document, in order
    document_bytes: tuple[int, ...]
    span_nats: float  # of the tokens that share a character with the spans given,
    span_bytes: int  # and the spans' bytes; without spans both are the whole text's

    @property
    def bits_per_byte(self) -> float:
        """The model's code length for the text, relative to the text's own size."""
        return self.nats / math.log(2) / self.bytes

    @property
    def span_bits_per_byte(self) -> float:
        """The same of what the spans cover: in chats what the assistant says; of the whole text where they cover nothing."""
        return self.span_nats / math.log(2) / self.span_bytes if self.span_bytes else self.bits_per_byte


@torch.inference_mode()
def score(
    model: Model,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    sequence_length: int,
    batch_tokens: int,
    progress: str | None = None,
    spans: Sequence[Spans | None] | None = None,
) -> LanguageModelingResult:
    """Sum the negative log-likelihood of ``texts``, each predicted from the BOS token on.

    ``sequence_length`` is the most tokens the model sees at once (never more than its own limit), ``batch_tokens`` about
    how many one forward takes (it changes memory and speed, not the result), ``progress`` the title of a progress bar.
    What ``spans`` cover is summed by itself, too; a text without any (None) counts whole there. Several processes score a share of
    the batches each, and all get the whole.
    Raises UserError when there is no text. A damaged model's nats are not finite: the caller says what that means.
    """
    sizes = tuple(len(text.encode()) for text in texts)
    if sum(sizes) == 0:
        raise UserError("there is no text to score; check the data set's splits")
    bos = np.array([packing.boundaries(tokenizer, model.config).bos])
    spans = [None] * len(texts) if spans is None else spans
    documents, covered = zip(*packing.encode_with_targets(tokenizer, texts, spans), strict=True)
    longest = min(sequence_length, model.config.max_position_embeddings)
    cut = [list(_windows(np.concatenate([bos, ids]), longest)) for ids in documents]
    windows = [window for document in cut for window in document]
    nats = np.zeros(len(windows))
    by_token = [np.zeros(0)] * len(windows)
    together = list(batches([len(window) - 1 for window in windows], batch_tokens, max_padding(model.device, batch_tokens)))
    given = ({"input_ids": _inputs([windows[index] for index in batch]).to(model.device)} for batch in ranks.share(together))
    hidden = hidden_states_of(model, given)
    scored = ranks.in_order(
        together, lambda batch: _negative_log_likelihoods(model, next(hidden), [windows[index] for index in batch])
    )
    with tqdm(total=sum(map(len, documents)), desc=progress, unit="token", disable=progress is None) as bar:
        for batch, (sums, found) in zip(together, scored, strict=True):
            nats[batch] = sums
            for index, those in zip(batch, found, strict=True):
                by_token[index] = those
            bar.update(sum(len(windows[index]) - 1 for index in batch))
    # Summed in the documents' order, exactly: neither batching nor sorting shows.
    ends = np.cumsum([len(document) for document in cut])
    by_document = tuple(math.fsum(nats[end - len(document) : end]) for document, end in zip(cut, ends, strict=True))
    inside = np.concatenate(by_token)[np.concatenate(covered)]
    said = [[text] if those is None else [text[slice(*span)] for span in those] for text, those in zip(texts, spans, strict=True)]
    return LanguageModelingResult(
        nats=math.fsum(nats),
        bytes=sum(sizes),
        tokens=sum(map(len, documents)),
        document_nats=by_document,
        document_bytes=sizes,
        span_nats=math.fsum(inside),
        span_bytes=sum(len(part.encode()) for parts in said for part in parts),
    )


def _windows(ids: np.ndarray, sequence_length: int) -> Iterator[np.ndarray]:
    """Cut ``bos document`` so that every token but the BOS token is predicted once, by ≤ ``sequence_length`` inputs."""
    for start in range(0, len(ids) - 1, sequence_length):
        yield ids[start : start + sequence_length + 1]


def max_padding(device: torch.device, batch_tokens: int) -> int:
    """How many tokens of a batch may be padding on a device: it decides how many forwards there are, not what they give."""
    return CPU_PADDING if device.type == "cpu" else round(GPU_PADDING_SHARE * batch_tokens)


def batches(lengths: Sequence[int], batch_tokens: int, max_padding: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first (so memory peaks at once).

    Each has ≤ ``batch_tokens`` tokens when padded, unless one text alone has more, and ≤ ``max_padding`` of them are padding.
    """
    batch: list[int] = []
    padding = 0
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        longest = lengths[batch[0]] if batch else lengths[index]
        padding += longest - lengths[index]
        if batch and ((len(batch) + 1) * longest > batch_tokens or padding > max_padding):
            yield batch
            batch, padding = [], 0
        batch.append(index)
    if batch:
        yield batch


def _inputs(windows: Sequence[np.ndarray]) -> torch.Tensor:
    """The ids of each window but its last, (windows, tokens). Right padding needs no attention mask: no real token looks to its
    right. Any id will do."""
    inputs = torch.zeros(len(windows), max(map(len, windows)) - 1, dtype=torch.long)
    for row, window in enumerate(windows):
        inputs[row, : len(window) - 1] = torch.from_numpy(window[:-1])
    return inputs


def _negative_log_likelihoods(
    model: Model, hidden: torch.Tensor, windows: Sequence[np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Nats of each window's tokens after its first, float64: their sum, (windows,), and those of each window, (tokens,).

    ``hidden`` (windows, tokens, hidden_size) is what the head reads of the inputs.
    """
    lengths = [len(window) - 1 for window in windows]
    real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    targets = torch.from_numpy(np.concatenate([window[1:] for window in windows]))
    nats = -log_likelihoods(model, hidden[real.to(model.device)], targets)
    return np.add.reduceat(nats, np.cumsum([0, *lengths[:-1]])), np.split(nats, np.cumsum(lengths[:-1]))
