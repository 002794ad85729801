"""Replies in batches, decoded alike for every model: greedy, or drawn with the same random numbers for each prompt and place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from minigpts import ranks
from minigpts.errors import UserError

CPU_ROWS = 48  # prompts at a time on a CPU: there more hardly makes a token cheaper, and their caches lie in memory
TEMPERATURE, TOP_P, TOP_K = 0.7, 0.9, 256
SEED = 0


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    batch_tokens: int,
    draws: Tensor | None = None,
    temperature: float = TEMPERATURE,
    top_p: float = TOP_P,
    progress: str | None = None,
) -> list[list[int]]:
    """The reply to each prompt, in ids, up to the model's own end of text, which isn't part of it: so one that ended is shorter.

    Greedy, or with ``draws``, float of shape (prompts, max_new_tokens) from 0 to 1, sampled by them at a temperature from the
    likeliest tokens that make up ``top_p``. ``batch_tokens`` is about how many tokens of prompts one forward takes (it changes
    memory and speed, not the result), ``progress`` the title of a progress bar. Raises UserError for a prompt that, with its
    reply, doesn't fit the model's positions. Several processes make a share of the batches each, and all get the whole.
    """
    longest, limit = max(map(len, prompts), default=0), model.config.max_position_embeddings
    if longest + max_new_tokens > limit:
        raise UserError(
            f"params.yaml: speech.tokens {max_new_tokens} behind a prompt of {longest} tokens is more than the model's {limit}"
            " positions; lower it"
        )
    order = sorted(range(len(prompts)), key=lambda row: (-len(prompts[row]), row))  # of similar length: little padding
    most = CPU_ROWS if model.device.type == "cpu" else len(prompts)
    together = []
    while order:
        rows = max(1, min(most, batch_tokens // len(prompts[order[0]])))
        together.append(order[:rows])
        order = order[rows:]
    replies: list[list[int]] = [[] for _ in prompts]
    with (
        _decoding(model) as ends,
        tqdm(total=len(prompts), desc=progress, unit="reply", disable=progress is None) as bar,
    ):

        def reply_to(batch: Sequence[int]) -> list[list[int]]:
            drawing = LogitsProcessorList()
            if draws is not None:
                drawing.append(_Drawn(draws[batch].to(model.device), len(prompts[batch[0]]), temperature, top_p))
            return [_until(reply, ends) for reply in _batch(model, [prompts[row] for row in batch], max_new_tokens, drawing)]

        for batch, found in zip(together, ranks.in_order(together, reply_to), strict=True):
            for row, reply in zip(batch, found, strict=True):
                replies[row] = reply
            bar.update(len(batch))
    return replies


def uniform(prompts: int, max_new_tokens: int) -> Tensor:
    """The random numbers that replies are sampled with, (prompts, max_new_tokens): the same on every run and for every model."""
    return torch.rand(prompts, max_new_tokens, generator=torch.Generator().manual_seed(SEED))


class _Drawn(LogitsProcessor):
    """Leaves of each row's tokens the one that its random number for this place draws, at a temperature and out of the nucleus.

    A row's tokens then depend neither on the other rows nor on how large the vocabulary is.
    """

    def __init__(self, draws: Tensor, start: int, temperature: float, top_p: float) -> None:
        self.draws, self.start, self.temperature, self.top_p = draws, start, temperature, top_p

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """All of ``scores`` (rows, vocabulary) −∞ but one of each row."""
        top, ids = (scores.float() / self.temperature).topk(min(TOP_K, scores.shape[-1]))
        likely = top.softmax(-1)
        upto = likely.cumsum(-1)
        nucleus = upto - likely < self.top_p  # the fewest that make it up together
        mass = (likely * nucleus).sum(-1, keepdim=True)
        draw = self.draws[:, input_ids.shape[1] - self.start, None] * mass
        place = (upto <= draw).sum(-1, keepdim=True).minimum(nucleus.sum(-1, keepdim=True) - 1)
        return torch.full_like(scores, -torch.inf).scatter(-1, ids.gather(-1, place), 0.0)  # type: ignore[return-value]


@contextmanager
def _decoding(model: PreTrainedModel) -> Iterator[list[int]]:
    """Put the model's own generation settings aside (penalties, sampling, forced tokens). Yields the ids that end its text."""
    own = model.generation_config
    ends = _ends(model)
    # Where none ends a text, generate gives all the tokens. What fills a row that has ended is any id.
    model.generation_config = GenerationConfig(eos_token_id=ends or None, pad_token_id=ends[0] if ends else 0, do_sample=False)
    try:
        yield ends
    finally:
        model.generation_config = own


def _ends(model: PreTrainedModel) -> list[int]:
    """The ids that end a text, as the checkpoint names them."""
    named = model.generation_config.eos_token_id
    return [] if named is None else [named] if isinstance(named, int) else list(named)


def _batch(model: PreTrainedModel, prompts: Sequence[Sequence[int]], max_new_tokens: int, drawing: LogitsProcessorList) -> Tensor:
    """What follows the prompts, (prompts, new tokens); stops early when all have ended."""
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):  # padded on the left, where the mask hides it
        ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = torch.tensor(prompt), 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    output: Tensor = model.generate(ids, attention_mask=mask, max_new_tokens=max_new_tokens, logits_processor=drawing)
    return output[:, width:]


def _until(row: Tensor, ends: Sequence[int]) -> list[int]:
    ids: list[int] = row.tolist()
    return ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))]
