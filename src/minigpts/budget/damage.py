"""Measures damage: the cut is really done, in memory, refitted on one part of the calibration text and scored on another.

A vocabulary alone is scored on both parts: nothing is fitted, and the rarer a token, the more text it takes to meet it.
Scores are nats of the text by its bytes, so that vocabularies compare: a child without a token pays for the pieces that it
spells the token with, and gains from a softmax over fewer tokens. Each is of the child itself, never an estimate from logits.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from minigpts.errors import UserError
from minigpts.evaluation import language_modeling
from minigpts.model import checkpoint, packing
from minigpts.model.device import device
from minigpts.model.weights import NamedTensors, StoredTensor
from minigpts.pruning import cutting
from minigpts.vocabulary import embeddings

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedConfig, PreTrainedModel

    from minigpts.vocabulary.choice import VocabularyChoice

HELD_BACK = 4  # every fourth document is measured on, the others are fitted on


@dataclass(frozen=True)
class Bench:
    """Everything a measurement needs but the cut."""

    parent: cutting.Parent
    vocabulary: VocabularyChoice
    calibration: cutting.Calibration  # with the texts to fit on
    held_back: Sequence[str]  # the texts to measure on

    @property
    def _all_texts(self) -> Sequence[str]:
        return [*self.calibration.texts, *self.held_back]

    @cached_property
    def parent_bits_per_byte(self) -> float:
        """The parent's own, of the held-back text."""
        return self._bits_per_byte(self.held_back)

    @cached_property
    def _parent_on_all_texts(self) -> float:
        return self._bits_per_byte(self._all_texts)

    def vocabulary_damage(self, num_counted: int) -> float:
        """Bits per byte that the vocabulary of the ``num_counted`` most frequent tokens costs, of all texts."""
        return self._bits_per_byte(self._all_texts, num_counted=num_counted) - self._parent_on_all_texts

    def damage(self, request: cutting.Request, num_counted: int | None = None) -> float:
        """Bits per byte that a cut, refitted, and with ``num_counted`` such a vocabulary, cost, of the held-back text."""
        return self._bits_per_byte(self.held_back, request, num_counted) - self.parent_bits_per_byte

    def _bits_per_byte(self, texts: Sequence[str], request: cutting.Request | None = None, num_counted: int | None = None) -> float:
        config = copy.deepcopy(self.parent.config)
        tensors: NamedTensors = self.parent.stored.entries.items()
        if request is not None:
            config, tensors = cutting.child(self.parent, cutting.plan_cut(self.parent, request), self.calibration)
        tokenizer = self.vocabulary.tokenizer
        if num_counted is not None:
            kept = list(self.vocabulary.most_frequent(num_counted))
            tokenizer = self.vocabulary.trimmed(kept)
            tensors = _with_rows(tensors, embeddings.vocabulary_tensors(self.parent.spec), torch.tensor(kept))
            embeddings.shrink_config(config, kept)
        return self._score(in_memory(config, tensors), tokenizer, texts)

    def _score(self, model: PreTrainedModel, tokenizer: Tokenizer, texts: Sequence[str]) -> float:
        runtime = self.calibration.runtime
        result = language_modeling.score(
            model.to(device(runtime)),
            tokenizer,
            texts,
            sequence_length=self.calibration.sequence_length,
            batch_tokens=runtime.batch_tokens,
        )
        if not np.isfinite(result.nats):
            raise UserError("the calibration text's likelihood is not finite; check the model's weights")
        return result.bits_per_byte


def split(tokenizer: Tokenizer, texts: Sequence[str], num_tokens: int) -> tuple[list[str], list[str]]:
    """Documents to fit on and to measure on, in order, about ``num_tokens`` tokens between them: every fourth is held back.

    Raises UserError when there are too few documents to hold one back.
    """
    room = {True: num_tokens / HELD_BACK, False: num_tokens * (1 - 1 / HELD_BACK)}
    parts: dict[bool, list[str]] = {True: [], False: []}
    for index, (text, ids) in enumerate(zip(texts, packing.encode_lazily(tokenizer, texts), strict=True)):
        held = index % HELD_BACK == HELD_BACK - 1
        if room[held] > 0:
            parts[held].append(text)
            room[held] -= len(ids)
        elif max(room.values()) <= 0:
            break
    if not parts[True]:
        raise UserError(f"the calibration text has {len(texts)} documents, a budget needs {HELD_BACK} at least; give more text")
    return parts[False], parts[True]


def in_memory(config: PreTrainedConfig, tensors: NamedTensors) -> PreTrainedModel:
    """The fp32 model of ``config`` with ``tensors``, as if it had been saved and loaded."""
    model = checkpoint.empty_model(config, torch.float32)
    for name, tensor in tensors:
        checkpoint.set_tensor(model, name, _read(tensor).to(torch.float32, copy=True))
    model.tie_weights()
    return model


def _read(tensor: torch.Tensor | StoredTensor) -> torch.Tensor:
    return tensor if isinstance(tensor, torch.Tensor) else tensor.read()


def _with_rows(tensors: NamedTensors, names: set[str], rows: torch.Tensor) -> Iterator[tuple[str, torch.Tensor | StoredTensor]]:
    """The tensors, those of ``names`` with the ``rows`` alone."""
    for name, tensor in tensors:
        yield name, _read(tensor).index_select(0, rows) if name in names else tensor
