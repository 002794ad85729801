"""What a checkpoint's vocabulary can be cut down to: by a threshold on the shares, or by a number of most frequent tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minigpts import artifacts
from minigpts.model import checkpoint
from minigpts.vocabulary import counts, dialect, keep, terms, trim

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class VocabularyChoice:
    """A checkpoint's tokenizer, how often the domain's text holds each token, and the ids that stay whatever the counts say."""

    definition: Mapping[str, Any]  # tokenizer.json
    tokenizer: Tokenizer
    counts: NDArray[np.int64]  # (number of ids,)
    special: set[int]  # named by the configs
    template: set[int]  # written by the chat template
    glossary: set[int]  # of the user's terms

    @classmethod
    def of(cls, model: Path, config: PreTrainedConfig, token_counts: Path, keep_terms: Path | None = None) -> VocabularyChoice:
        """Read a checkpoint folder, whose config is ``config``, what count_tokens wrote, and prepare_dataset's list of terms.

        Raises UserError for counts of another tokenizer, and for ids that are none of the tokenizer's.
        """
        tokenizer = checkpoint.load_fast_tokenizer(model)
        tokens = counts.tokens_of(tokenizer)
        special = trim.needed_ids(config.to_dict(), tokens, f"{model}/config.json")
        if (model / "generation_config.json").exists():
            generation = artifacts.read_json(model / "generation_config.json")
            special |= trim.needed_ids(generation, tokens, f"{model}/generation_config.json")
        definition = artifacts.read_json(model / "tokenizer.json")
        found = counts.read_counts(token_counts, tokenizer)
        named: Iterable[str] = [] if keep_terms is None else artifacts.read_json(keep_terms)
        template, glossary = keep.template_ids(model, tokenizer), terms.token_ids(tokenizer, named)
        return cls(definition, tokenizer, found, special, template, glossary)

    def above(self, threshold: float) -> dict[int, str]:
        """The ids that stay, with the reason, where tokens whose share is at or below ``threshold`` go."""
        return keep.tokens_to_keep(self.definition, self.counts, threshold, self.special, self.template, self.glossary)

    def most_frequent(self, number: int) -> dict[int, str]:
        """The same where the ``number`` most frequent tokens stay for their count."""
        return keep.closure(self.definition, self.ranked[:number].tolist(), self.special, self.template, self.glossary)

    @cached_property
    def ranked(self) -> NDArray[np.int64]:
        """The ids of the vocabulary, most frequent first, of equals the lower id."""
        ids = np.array(sorted(self.definition["model"]["vocab"].values()))
        return ids[np.argsort(-self.counts[ids], kind="stable")]

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """``sizes[n]`` is ``len(most_frequent(n))``, for every n: what grows with a token is itself and what builds it."""
        vocab = self.definition["model"]["vocab"]
        spelling, ranks = {token_id: token for token, token_id in vocab.items()}, dialect.ranks(self.definition)
        kept = set(self.most_frequent(0))
        sizes = [len(kept)]
        for token_id in self.ranked.tolist():
            if token_id not in kept:
                kept |= {token_id, *(vocab[symbol] for symbol in keep.derivation(spelling[token_id], ranks))}
            sizes.append(len(kept))
        return np.array(sizes)

    def trimmed(self, kept: list[int]) -> Tokenizer:
        """The tokenizer of the ids ``kept`` alone, in memory."""
        from tokenizers import Tokenizer

        child = Tokenizer.from_str(json.dumps(trim.trim(self.definition, kept)))
        child.no_truncation()
        child.no_padding()
        return child
