"""Measures damage: the cut is really done, in memory, refitted on one part of the calibration text and scored on another.

A vocabulary alone is scored on both parts: nothing is fitted, and the rarer a token, the more text it takes to meet it.
Scores are nats of the text by its bytes, so that vocabularies compare: a child without a token pays for the pieces that it
spells the token with, and gains from a softmax over fewer tokens. Each is of the child itself, never an estimate from logits.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from minigpts.budget.curves import Damage, ratio_error
from minigpts.errors import UserError
from minigpts.evaluation import language_modeling
from minigpts.evaluation.language_modeling import LanguageModelingResult
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

    @cached_property
    def parent_score(self) -> LanguageModelingResult:
        """The parent's own, of the held-back text."""
        return self._parent_on(self.held_back)

    @cached_property
    def _parent_score_on_fitted(self) -> LanguageModelingResult:
        return self._parent_on(self.fitted)

    def _parent_on(self, texts: Sequence[str]) -> LanguageModelingResult:
        return self.score(*self.child(None, None), texts)

    def vocabulary_damage(self, num_counted: int) -> Damage:
        """What the vocabulary of the ``num_counted`` most frequent tokens costs, of all texts."""
        child = self.child(None, num_counted)
        fitted, held = (self.score(*child, texts) for texts in (self.fitted, self.held_back))
        bits = above(held, self.parent_score)
        every = above(fitted, self._parent_score_on_fitted) + bits
        sizes = fitted.document_bytes + held.document_bytes
        return Damage(math.fsum(every) / sum(sizes), float(ratio_error(every, sizes)), bits)

    def damage(self, plan: ByPlan) -> Damage:
        """What a cut, refitted, costs, of the held-back text."""
        return self.damage_of(*self.child(plan, None))

    def damage_of(self, model: PreTrainedModel, tokenizer: Tokenizer) -> Damage:
        """What a child costs, of the held-back text."""
        score = self.score(model, tokenizer, self.held_back)
        bits = above(score, self.parent_score)
        return Damage(math.fsum(bits) / score.bytes, float(ratio_error(bits, score.document_bytes)), bits)

    def child(self, plan: ByPlan | None, num_counted: int | None) -> tuple[PreTrainedModel, Tokenizer]:
        """The fp32 model that a cut, refitted, leaves, and with ``num_counted`` such a vocabulary; None: as it is in the parent."""
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
        return in_memory(config, tensors), tokenizer

    def tokens(self, config: PreTrainedConfig, tokenizer: Tokenizer) -> torch.Tensor:
        """The fitted texts as packed sequences of a child's tokens, (sequences, length)."""
        packed = packing.pack_texts(tokenizer, config, self.fitted, self.params.sequence_length)
        return torch.from_numpy(packed).to(self.where)

    def score(self, model: PreTrainedModel, tokenizer: Tokenizer, texts: Sequence[str]) -> LanguageModelingResult:
        """A model's score. Raises UserError when it is not finite."""
        length = self.params.sequence_length
        result = language_modeling.score(model.to(self.where), tokenizer, texts, sequence_length=length, batch_tokens=BATCH_TOKENS)
        if not np.isfinite(result.nats):
            raise UserError("the calibration text's likelihood is not finite; check the model's weights")
        return result


def above(child: LanguageModelingResult, parent: LanguageModelingResult) -> tuple[float, ...]:
    """Bits that each document costs more than with the parent."""
    pairs = zip(child.document_nats, parent.document_nats, strict=True)
    return tuple((nats - before) / math.log(2) for nats, before in pairs)


def split(tokenizer: Tokenizer, texts: Sequence[str], num_tokens: int) -> tuple[list[str], list[str]]:
    """Documents to fit on and to measure on, in order, about ``num_tokens`` tokens between them: every fourth is held back.

    Raises UserError when there are too few documents to hold two back: from one there is no standard error.
    """
    room = {True: num_tokens / HELD_BACK, False: num_tokens * (1 - 1 / HELD_BACK)}
    parts: dict[bool, list[str]] = {True: [], False: []}
    for index, (text, ids) in enumerate(zip(texts, packing.encode_lazily(tokenizer, texts), strict=True)):
        held = index % HELD_BACK == HELD_BACK - 1
        if room[held] > 0 or (held and len(parts[held]) < 2):
            parts[held].append(text)
            room[held] -= len(ids)
        elif max(room.values()) <= 0 and len(parts[True]) >= 2:
            break
    if len(parts[True]) < 2:
        raise UserError(f"the calibration text has {len(texts)} documents, a budget needs {2 * HELD_BACK} at least; give more text")
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
