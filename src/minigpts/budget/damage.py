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
from minigpts.model.weights import NamedTensors, StoredTensor
from minigpts.pruning import cutting
from minigpts.pruning.params import ByPlan, Params
from minigpts.vocabulary import embeddings

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedConfig, PreTrainedModel

    from minigpts.vocabulary.choice import VocabularyChoice

HELD_BACK = 4  # every fourth document is measured on, the others are fitted on
BATCH_TOKENS = 4096  # in one forward of a score: fixed, so that neither the machine nor runtime.batch_tokens shows in a damage


@dataclass(frozen=True)
class DamageMeter:
    """Measures what trial cuts of one parent cost."""

    parent: cutting.Parent
    vocabulary: VocabularyChoice
    params: Params  # how a cut is chosen and refitted
    fitted: Sequence[str]  # the texts to fit on
    held_back: Sequence[str]  # the texts to measure on
    where: torch.device

    @property
    def _all_texts(self) -> Sequence[str]:
        return [*self.fitted, *self.held_back]

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

    def damage(self, plan: ByPlan, num_counted: int | None = None) -> float:
        """Bits per byte that a cut, refitted, and with ``num_counted`` such a vocabulary, cost, of the held-back text."""
        return self._bits_per_byte(self.held_back, plan, num_counted) - self.parent_bits_per_byte

    def _bits_per_byte(self, texts: Sequence[str], plan: ByPlan | None = None, num_counted: int | None = None) -> float:
        config = copy.deepcopy(self.parent.config)
        tensors: NamedTensors = self.parent.stored.entries.items()
        if plan is not None:
            config, tensors = cutting.child(self.parent, cutting.choose(self.parent, plan), self.fitted, self.where)
        tokenizer = self.vocabulary.tokenizer
        if num_counted is not None:
            kept = list(self.vocabulary.most_frequent(num_counted))
            tokenizer = self.vocabulary.trimmed(kept)
            tensors = _with_rows(tensors, embeddings.vocabulary_tensors(self.parent.spec), torch.tensor(kept))
            embeddings.shrink_config(config, kept)
        return self._score(in_memory(config, tensors), tokenizer, texts)

    def _score(self, model: PreTrainedModel, tokenizer: Tokenizer, texts: Sequence[str]) -> float:
        length = self.params.sequence_length
        result = language_modeling.score(model.to(self.where), tokenizer, texts, sequence_length=length, batch_tokens=BATCH_TOKENS)
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
