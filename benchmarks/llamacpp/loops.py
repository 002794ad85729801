"""How often a model's greedy replies loop: the share in which a 4-gram of tokens stands more than three times.

Replies of at most 128 tokens to 30 prompts that are made from the domain's validation documents, the same for every model: half of
them the beginnings of documents, half questions, in the chat template where the model has one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from minigpts.model import packing

PROMPTS, NEW_TOKENS = 30, 128
GRAM, TIMES = 4, 3
FIRST_WORDS = 5  # of a document, for the model to go on from
ASKED = re.compile(r"Question: *(.+)")  # what a document asks, on its first line
TOPIC = re.compile(r"((?:[^\s:.?]+ ){0,7}[^\s:.?]+): ")  # what a document says it is about: at most eight words before a colon
BATCH = 10  # prompts at a time: their caches lie in memory


def prompts(documents: Sequence[str], count: int = PROMPTS) -> list[tuple[str, bool]]:
    """``count`` prompts from documents spread evenly over all: text, and whether it is a question.

    Half are questions where enough documents have one in them. There are fewer of fewer documents.
    """
    asking = [(asked, True) for text in documents if (asked := question(text))]
    telling = [(" ".join(text.split()[:FIRST_WORDS]), False) for text in documents if not ASKED.match(text)]
    questions = spread(asking, max(count // 2, count - len(telling)))
    return questions + spread(telling, count - len(questions))


def spread(items: Sequence[tuple[str, bool]], count: int) -> list[tuple[str, bool]]:
    """At most ``count`` of the items, evenly apart."""
    count = min(count, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def question(document: str) -> str | None:
    """What a reader would ask to get the document for an answer: its own question, or what its topic is; None without either."""
    if found := ASKED.match(document):
        return found[1].strip()
    return f"What is {found[1]}?" if (found := TOPIC.match(document)) else None


def encode(tokenizer: PreTrainedTokenizerBase, text: str, asks: bool) -> list[int]:
    """The ids a model goes on from: a question in the chat template, or behind ``Question:`` where the tokenizer has none."""
    if not asks:
        return packing.prompt_ids(tokenizer.backend_tokenizer, text)
    if tokenizer.chat_template is None:
        return packing.prompt_ids(tokenizer.backend_tokenizer, f"Question: {text}\nAnswer:")
    turns = [{"role": "user", "content": text}]
    return list(tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"])


@torch.inference_mode()
def replies(model: PreTrainedModel, encoded: Sequence[Sequence[int]], max_new_tokens: int = NEW_TOKENS) -> list[list[int]]:
    """The greedy reply to each prompt, in ids, up to the model's own end of text, which isn't part of it."""
    found: list[list[int]] = []
    waiting = iter(encoded)
    with tqdm(total=len(encoded), desc="replies", unit="prompt") as bar:
        while batch := list(islice(waiting, BATCH)):
            found += _generate(model, batch, max_new_tokens)
            bar.update(len(batch))
    return found


def _generate(model: PreTrainedModel, batch: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
    width = max(map(len, batch))
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(batch):  # padded on the left, where the mask hides it
        ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = torch.tensor(prompt), 1
    ends = _ends(model)
    output = model.generate(
        ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,  # what follows a reply that has ended
    )
    return [_until(row, ends) for row in output[:, width:]]


def _ends(model: PreTrainedModel) -> list[int]:
    """The ids that end a text, as the checkpoint names them."""
    named = model.generation_config.eos_token_id
    return [] if named is None else [named] if isinstance(named, int) else list(named)


def _until(row: Tensor, ends: Sequence[int]) -> list[int]:
    ids: list[int] = row.tolist()
    return ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))]


def loops(reply: Sequence[int]) -> bool:
    """Whether some 4-gram of tokens stands in it more than three times; those that overlap count, too."""
    grams = Counter(tuple(reply[start : start + GRAM]) for start in range(len(reply) - GRAM + 1))
    return max(grams.values(), default=0) > TIMES


def loop_rate(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, documents: Sequence[str]) -> float:
    """The share of the replies to :func:`prompts` of ``documents`` that loop."""
    encoded = [encode(tokenizer, text, asks) for text, asks in prompts(documents)]
    looping = [loops(reply) for reply in replies(model, encoded)]
    return sum(looping) / len(looping)
