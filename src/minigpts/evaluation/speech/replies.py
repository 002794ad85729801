"""What a model says to a prompt, and the figures of many such replies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING

from minigpts.evaluation.speech.generation import generate, uniform
from minigpts.evaluation.speech.prompts import Prompt, encode

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GRAM, TIMES = 4, 3


@dataclass(frozen=True)
class Reply:
    """What a model said."""

    prompt: Prompt
    ids: tuple[int, ...]
    text: str  # without special tokens
    ended: bool  # by itself, before its last token

    @property
    def empty(self) -> bool:
        """Whether a reader sees nothing."""
        return not self.text.strip()

    @property
    def loops(self) -> bool:
        """Whether it repeats itself."""
        return loops(self.ids)


def replies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    *,
    batch_tokens: int,
    sampled: bool = False,
    progress: str | None = None,
) -> list[Reply]:
    """What the model says to each prompt: greedy, or one seeded sample of it."""
    encoded = [encode(tokenizer, prompt) for prompt in prompts]
    draws = uniform(len(prompts), max_new_tokens) if sampled else None
    said = generate(model, encoded, max_new_tokens, batch_tokens=batch_tokens, draws=draws, progress=progress)
    return [
        Reply(prompt, tuple(ids), text_behind(tokenizer, before, ids), len(ids) < max_new_tokens)
        for prompt, before, ids in zip(prompts, encoded, said, strict=True)
    ]


def text_behind(
    tokenizer: PreTrainedTokenizerBase | Tokenizer, prompt: Sequence[int], reply: Sequence[int], *, special: bool = False
) -> str:
    """The text of a reply as it stands behind its prompt, without special tokens unless ``special`` is set.

    By itself, SentencePiece's decoder would drop the space that it begins with.
    """
    shown, whole = (str(tokenizer.decode(list(ids), skip_special_tokens=not special)) for ids in (prompt, [*prompt, *reply]))
    if whole.startswith(shown):
        return whole.removeprefix(shown)
    return str(tokenizer.decode(list(reply), skip_special_tokens=not special))


def loops(ids: Sequence[int]) -> bool:
    """Whether some 4-gram of tokens stands in it more than three times; those that overlap count, too."""
    grams = Counter(tuple(ids[start : start + GRAM]) for start in range(len(ids) - GRAM + 1))
    return max(grams.values(), default=0) > TIMES


def figures(found: Sequence[Reply]) -> dict[str, float | None]:
    """``empty_rate``, ``end_rate`` and ``loop_rate`` (shares of the replies), ``distinct_2`` and ``length`` of at least one reply.

    ``distinct_2`` is the share of different pairs among all pairs of neighbouring words of all replies, null where there are none;
    of words, so that it compares across vocabularies. ``length`` is in tokens, the mean.
    """
    pairs = [pair for reply in found for pair in pairwise(reply.text.lower().split())]
    return {
        "empty_rate": fmean(reply.empty for reply in found),
        "end_rate": fmean(reply.ended for reply in found),
        "loop_rate": fmean(reply.loops for reply in found),
        "distinct_2": len(set(pairs)) / len(pairs) if pairs else None,
        "length": fmean(len(reply.ids) for reply in found),
    }
