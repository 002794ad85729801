"""General text that the parent writes itself: chats by its own template, or plain texts where it has none.

Given the head of a user's turn and nothing else, a model tuned on chats writes what a user might ask (Magpie, arXiv 2406.08464),
and then replies to it. So nobody chooses the topics, and a question that holds a prompt of the evaluation is left out. Tokens are
drawn at temperature 1, since along the parent's own samples the mean KL divergence to it is that between whole texts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from tqdm import tqdm

from minigpts import artifacts
from minigpts.corpus.chats import MARK, Renderer
from minigpts.corpus.readers.chat_rows import Chat, LeftOut, Message
from minigpts.errors import UserError
from minigpts.evaluation.speech.general import GENERAL
from minigpts.evaluation.speech.generation import CPU_ROWS, generate
from minigpts.evaluation.speech.instructions import INSTRUCTIONS
from minigpts.evaluation.speech.replies import loops, text_behind
from minigpts.model import checkpoint, packing
from minigpts.model.chat_template import ChatTemplate
from minigpts.model.packing import Spans

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

Item = TypeVar("Item")
Made = TypeVar("Made")

QUESTION_TOKENS, REPLY_TOKENS = 96, 320  # of a turn at most: half of the first chats SmolLM2-135M-Instruct wrote ended within them
ROWS = CPU_ROWS  # texts begun together, on every device, since which random numbers a text gets follows from it
MOST = 10  # tokens written for one asked for: a parent that needs more has little to say

EMPTY, LOOP, UNFINISHED = "empty turns", "turns that loop", "unfinished turns"
REPEATED, EVALUATED = "questions asked before", "prompts of the evaluation"


@dataclass(frozen=True)
class Document:
    """A text worth keeping."""

    text: str
    spans: Spans | None  # which characters the assistant says; None: it is no chat
    tokens: int  # of it, that the parent wrote


@dataclass
class Author:
    """A parent that writes, and what was left out of what it wrote."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    random: torch.Generator
    batch_tokens: int
    tokens: int = 0  # written so far, whatever became of them
    left_out: Counter[str] = field(default_factory=Counter)  # turns, texts and chats, by reason

    def say(self, prompts: list[list[int]], share_of_positions: float, most: int) -> list[tuple[str, bool]]:
        """A sample of what comes behind each prompt, special tokens shown, and whether it ended by itself.

        It has at most ``most`` tokens, or that share of the model's positions.
        """
        most = min(most, int(share_of_positions * self.model.config.max_position_embeddings))
        draws = torch.rand(len(prompts), most, generator=self.random)
        said = generate(self.model, prompts, most, batch_tokens=self.batch_tokens, draws=draws, temperature=1.0, top_p=1.0)
        self.tokens += sum(len(ids) + 1 for ids in said)  # what ends a text is one, too
        behind = [text_behind(self.tokenizer, *pair, special=True) for pair in zip(prompts, said, strict=True)]
        return [(text, len(ids) < most) for text, ids in zip(behind, said, strict=True)]

    def encode(self, text: str) -> list[int]:
        """Its token ids, without any that the text doesn't spell."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def checked(self, text: str) -> str:
        """The text without white space around it. Raises LeftOut when nothing is left of it, or it loops."""
        text = text.strip()
        if not text:
            raise LeftOut(EMPTY)
        if loops(self.encode(text)):
            raise LeftOut(LOOP)
        return text

    def kept(self, make: Callable[[Item], Made], items: Iterable[Item]) -> list[Made]:
        """What ``make`` makes of the items, without those for which it raises LeftOut; these are counted."""
        made = []
        for item in items:
            try:
                made.append(make(item))
            except LeftOut as reason:
                self.left_out[str(reason)] += 1
        return made


class Texts:
    """Writes plain texts, from the token that stands before every text."""

    kind = "texts"

    def __init__(self, author: Author) -> None:
        """``author``: any; it needs no template."""
        self.author = author
        self.prompt = [packing.boundaries(author.tokenizer, author.model.config).bos]

    def write(self) -> list[Document]:
        """The documents among the next :data:`ROWS` texts, which may break off."""
        return self.author.kept(self._document, self.author.say([self.prompt] * ROWS, 0.75, REPLY_TOKENS))

    def _document(self, said: tuple[str, bool]) -> Document:
        text = self.author.checked(said[0])
        return Document(text, None, len(self.author.encode(text)))


class Chats:
    """Writes chats: what a user asks, and the reply."""

    kind = "chats"

    def __init__(self, author: Author, template: ChatTemplate, renderer: Renderer) -> None:
        """Raises LeftOut when the template doesn't show where a user's turn begins."""
        self.author, self.template, self.renderer = author, template, renderer
        self.head, self.end_of_question = self._around([_turn("user", MARK)], prompt=True)
        _, self.end_of_reply = self._around([_turn("user", "?"), _turn("assistant", MARK)])
        self.asked: set[str] = set()

    def _around(self, chat: list[Message], prompt: bool = False) -> tuple[str, str]:
        """What stands before the marked turn, and the line that ends it."""
        try:
            before, behind = self.template.render(chat, prompt=prompt).split(MARK)
        except UserError:
            raise
        except Exception as error:  # a template is a program, and may show a turn twice or not at all
            raise LeftOut("templates without a user's turn") from error
        return before.rstrip(" "), next(iter(behind.strip().splitlines()), "")  # a tokenizer puts a space into the word behind it

    def write(self) -> list[Document]:
        """The documents among the next :data:`ROWS` chats."""
        author = self.author
        asked = author.kept(self._question, author.say([author.encode(self.head)] * ROWS, 0.25, QUESTION_TOKENS))
        prompts = [author.encode(self.template.render([_turn("user", question)], prompt=True)) for question in asked]
        replies = author.say(prompts, 0.5, REPLY_TOKENS)
        return author.kept(self._document, zip(asked, replies, strict=True))

    def _question(self, said: tuple[str, bool]) -> str:
        question = self._ended(said, self.end_of_question)
        words = _words(question)
        if words in self.asked:
            raise LeftOut(REPEATED)
        self.asked.add(words)
        if any(prompt in words for prompt in _PROMPTS):
            raise LeftOut(EVALUATED)
        return question

    def _document(self, chat: tuple[str, tuple[str, bool]]) -> Document:
        question, reply = chat[0], self._ended(chat[1], self.end_of_reply)
        messages = [_turn("user", question), _turn("assistant", reply)]
        text, spans = self.renderer.render(Chat(messages, None), "what the parent wrote")
        return Document(text, spans, len(self.author.encode(question)) + len(self.author.encode(reply)))

    def _ended(self, said: tuple[str, bool], end: str) -> str:
        """A turn up to its end. Raises LeftOut for one that has none, says nothing or loops."""
        text, ended = said
        turn = text.split(end)[0] if end else text
        if turn == text and not ended:
            raise LeftOut(UNFINISHED)
        return self.author.checked(turn)


def write(folder: Path, path: Path, tokens: int, seed: int, *, where: torch.device, batch_tokens: int) -> dict[str, Any]:
    """Let the checkpoint ``folder`` write general text of at least so many tokens to a table; gives what the metrics say of it.

    ``batch_tokens`` is for :func:`generate`; it doesn't change what is written. Raises UserError when the parent writes too little
    that is worth keeping, and then leaves an earlier table whole.
    """
    model, tokenizer = checkpoint.load_model(folder, torch.float32).to(where), checkpoint.load_fast_tokenizer(folder)
    author = Author(model, tokenizer, torch.Generator().manual_seed(seed), batch_tokens)
    writer = _writer(folder, author)
    documents = written = num_bytes = 0
    with (
        artifacts.table_writer(path, ["text", "loss_spans"]) as append,
        tqdm(total=tokens, desc="the parent writes", unit="token") as bar,
    ):
        while written < tokens:
            if author.tokens > MOST * tokens:
                raise UserError(
                    f"{folder}: of {author.tokens} tokens it wrote, only {written} are worth keeping, not write_general.tokens"
                    f" {tokens} ({_counts(author.left_out)}); set dataset.general_text and finetune.general: text instead"
                )
            found = writer.write()
            append({"text": [document.text for document in found], "loss_spans": [document.spans for document in found]})
            documents, written = documents + len(found), written + sum(document.tokens for document in found)
            num_bytes += sum(len(document.text.encode()) for document in found)
            bar.update(min(written, tokens) - bar.n)
    return {
        "kind": writer.kind,
        "documents": documents,
        "bytes": num_bytes,
        "tokens": written,
        "tokens_with_those_left_out": author.tokens,
        "left_out": dict(author.left_out),
    }


def _writer(folder: Path, author: Author) -> Chats | Texts:
    template = ChatTemplate.of(folder)
    try:
        return Texts(author) if template is None else Chats(author, template, Renderer(folder))
    except LeftOut:
        return Texts(author)


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _words(text: str) -> str:
    """The words alone, each between spaces, so that one text's are found among another's."""
    words = re.findall(r"[^\W_]+", text.lower())
    return f" {' '.join(words)} "


_PROMPTS = frozenset(_words(prompt) for prompt in (*GENERAL, *(instruction.request for instruction in INSTRUCTIONS)))


def _counts(left_out: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in left_out.most_common())
