"""A model's figures of speech: replies to a domain's prompts and to general ones, greedy and sampled, and instructions kept."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from minigpts.evaluation.speech.general import GENERAL
from minigpts.evaluation.speech.instructions import INSTRUCTIONS
from minigpts.evaluation.speech.prompts import Prompt, of_documents
from minigpts.evaluation.speech.replies import Reply, figures, replies

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from minigpts.model.packing import Spans

SAMPLED_STEP = 2  # every other prompt is asked a second time, and sampled


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[str],
    spans: Sequence[Spans | None],
    max_new_tokens: int,
    *,
    batch_tokens: int,
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """The figures, and every reply they are of, as they are written.

    Prompts come from ``documents``, of which ``spans`` are what an assistant says, None where it is no chat. The figures are those
    of :func:`replies.figures` under ``domain``, ``general`` and ``sampled`` (prompts of both), and the share of
    :data:`INSTRUCTIONS` that are kept: null where the tokenizer has no chat template to give them through.
    """
    domain, general = of_documents(documents, spans), [Prompt(text, True) for text in GENERAL]
    instructions = INSTRUCTIONS if tokenizer.chat_template is not None else ()
    asked = [*domain, *general, *(Prompt(instruction.request, True) for instruction in instructions)]
    speak = partial(replies, model, tokenizer, max_new_tokens=max_new_tokens, batch_tokens=batch_tokens)
    said = speak(prompts=asked, progress="replies")
    greedy = {"domain": said[: len(domain)], "general": said[len(domain) : len(domain) + len(general)]}
    obeying = said[len(domain) + len(general) :]
    again = [*domain, *general][::SAMPLED_STEP]
    spoken = {**greedy, "sampled": speak(prompts=again, sampled=True, progress="sampled replies")}
    kept = [keeps(reply, instruction.kept_by(reply.text)) for reply, instruction in zip(obeying, instructions, strict=True)]
    judged = [
        {**_written(reply), "kind": instruction.kind, "kept": done}
        for reply, instruction, done in zip(obeying, instructions, kept, strict=True)
    ]
    numbers = {name: figures(found) for name, found in spoken.items()}
    return (
        {**numbers, "instructions": fmean(kept) if kept else None},
        {**{name: [_written(reply) for reply in found] for name, found in spoken.items()}, "instructions": judged},
    )


def keeps(reply: Reply, done: bool) -> bool:
    """Whether a reply that does as it was told says something, too: an empty one or a loop keeps no instruction."""
    return done and not reply.empty and not reply.loops


def _written(reply: Reply) -> dict[str, Any]:
    return {
        "prompt": reply.prompt.text,
        "asks": reply.prompt.asks,
        "reply": reply.text,
        "tokens": len(reply.ids),
        "ended": reply.ended,
        "empty": reply.empty,
        "loops": reply.loops,
    }
