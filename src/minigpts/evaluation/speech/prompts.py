"""What every model is asked: questions and beginnings made from a domain's held-out documents, by rule and without a choice."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING

from minigpts.model import packing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from minigpts.model.packing import Spans

PROMPTS = 60
FIRST_WORDS = 5  # of a document, for the model to go on from
LONGEST_QUESTION = 40  # words
ASKED = re.compile(r"Question: *(.+)")  # what a document asks, on its first line
TOPIC = re.compile(r"((?:[^\s:.?]+ ){0,7}[^\s:.?]+): ")  # what a document says it is about: at most eight words before a colon


@dataclass(frozen=True)
class Prompt:
    """A question or request, or the beginning of a text that the model goes on from."""

    text: str
    asks: bool


def of_documents(documents: Iterable[str], spans: Iterable[Spans | None] = repeat(None), count: int = PROMPTS) -> list[Prompt]:
    """``count`` prompts from documents spread evenly over all; fewer where there are few documents.

    A third are questions: the document's own, or "What is …?" its topic. A third are "List three facts about …" other topics,
    and a third are beginnings of documents. Where there are too few of a kind, the others fill up. Of a chat, the document has
    ``spans``: the beginning is all of it up to what the assistant says first.
    """
    asking, listing, beginnings = [], [], []
    topics = 0
    for text, said in zip(documents, spans):  # noqa: B905  # without spans, all are None
        if said:
            beginnings.append(text[: said[0][0]])
            continue
        if own := ASKED.match(text):
            asking += [own[1].strip()] if len(own[1].split()) <= LONGEST_QUESTION else []
            continue
        beginnings += [" ".join(text.split()[:FIRST_WORDS])] if text.strip() else []
        if about := TOPIC.match(text):
            topics += 1
            if topics % 2:
                asking.append(f"What is {about[1]}?")
            else:
                listing.append(f"List three facts about {about[1]}.")
    listing = spread(listing, count // 3)
    asking = spread(asking, max(2 * count // 3 - len(listing), count - len(listing) - len(set(beginnings))))
    beginnings = spread(beginnings, count - len(listing) - len(asking))
    return [*(Prompt(text, True) for text in (*asking, *listing)), *(Prompt(text, False) for text in beginnings)]


def spread(items: Sequence[str], count: int) -> list[str]:
    """At most ``count`` of the different items, evenly apart."""
    different = list(dict.fromkeys(items))
    count = min(count, len(different))
    return [different[place * len(different) // count] for place in range(count)]


def encode(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """The ids a model goes on from: a question in the chat template, or behind ``Question:`` where the tokenizer has none."""
    if not prompt.asks:
        return packing.prompt_ids(tokenizer.backend_tokenizer, prompt.text)
    if tokenizer.chat_template is None:
        return packing.prompt_ids(tokenizer.backend_tokenizer, f"Question: {prompt.text}\nAnswer:")
    turns = [{"role": "user", "content": prompt.text}]
    return list(tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"])
