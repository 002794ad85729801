"""Chats as the text a model reads: rendered by the parent's own template, with the characters that the assistant says.

What the assistant says is what stands behind the prompt for a reply, up to the token that ends the turn. It is found by rendering
the chat up to each reply and comparing. Where a template writes an earlier turn otherwise than a last one (it leaves out its
thoughts), so that no such beginning is one of the whole, a mark in place of the reply shows where the reply stands.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minigpts.corpus.readers.chat_rows import Chat, LeftOut, Message, strings
from minigpts.errors import UserError
from minigpts.model import checkpoint, packing
from minigpts.model.chat_template import ChatTemplate, special_tokens
from minigpts.model.packing import Spans

MARK = "\x01reply\x01"  # in no chat: control characters are removed from those

REFUSED = "chats that the chat template refuses"
UNCLEAR = "chats whose replies the chat template doesn't show"
CONTROL = "chats that say a special token"


class Renderer:
    """Renders chats as a parent reads them; its files are read when the first chat is."""

    def __init__(self, model: Path | None) -> None:
        """``model``: the parent's checkpoint folder; without one a chat is refused."""
        self.model = model
        self._parent: _Parent | None = None

    def render(self, chat: Chat, where: str) -> tuple[str, Spans]:
        """The chat as text, and the characters that the assistant says, turn by turn.

        The text lacks the token that stands before every text anyway, and the white space at its end. Raises LeftOut where the
        template refuses the chat, or leaves a reply out, and where someone says a special token: in the text it would be one.
        Raises UserError naming the row ``where`` without a parent, and naming the template where that goes on and on.
        """
        if self.model is None:
            raise UserError(f"{where}: holds a chat, which the parent's template must render; give --model")
        if self._parent is None:
            self._parent = _Parent.of(self.model)
        parent = self._parent
        spoken = strings([[*message.values()] for message in chat.messages]) + strings(chat.tools)
        if any(parent.special.search(text) for text in spoken):
            raise LeftOut(CONTROL)
        try:
            whole = parent.template.render(chat.messages, chat.tools)
        except UserError:
            raise
        except Exception as error:  # a template is a program
            raise LeftOut(REFUSED) from error
        replies = [number for number, message in enumerate(chat.messages) if message["role"] == "assistant"]
        spans = [parent.said(whole, chat, number) for number in replies]
        begins = len(parent.first) if whole.startswith(parent.first) else 0
        return whole[begins:].rstrip(), [(first - begins, end - begins) for first, end in spans]

    def shipped(self) -> str:
        """Our template, for the child of a parent without one; empty where the parent has one, or no chat was read."""
        return self._parent.template.source if self._parent is not None and self._parent.lacks_template else ""


@dataclass(frozen=True)
class _Parent:
    """What a checkpoint folder says of chats."""

    template: ChatTemplate
    lacks_template: bool  # then it is ours
    special: re.Pattern[str]  # matches the strings that the tokenizer reads as special tokens wherever they stand
    first: str  # the token that packing and scoring put before every text

    @classmethod
    def of(cls, folder: Path) -> _Parent:
        template = ChatTemplate.of(folder)
        ours = Path(__file__).parent / "chat_template.jinja"
        tokenizer = checkpoint.load_fast_tokenizer(folder)
        special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
        bos = tokenizer.id_to_token(packing.boundaries(tokenizer, checkpoint.load_config(folder)).bos)
        return cls(
            template or ChatTemplate(str(ours), ours.read_text(encoding="utf-8"), special_tokens(folder)),
            template is None,
            re.compile("|".join(map(re.escape, special)) or "(?!)"),  # which matches nothing
            bos or "",
        )

    def said(self, whole: str, chat: Chat, number: int) -> tuple[int, int]:
        """The characters of ``whole`` that the assistant says in a turn. Raises LeftOut where that can't be told."""
        before, turn = chat.messages[:number], chat.messages[number]
        asked, said_last = self._attempt(chat, before, prompt=True), self._attempt(chat, [*before, turn])
        if asked is not None and said_last is not None and whole.startswith(said_last) and said_last.startswith(asked):
            span = len(asked), len(asked) + len(self._turn(said_last[len(asked) :]))
            if _squeezed(turn["content"]) in _squeezed(whole[slice(*span)]) and _calls(turn, whole[slice(*span)]):
                return span
        return self._said_by_mark(whole, chat, number, asked)

    def _said_by_mark(self, whole: str, chat: Chat, number: int, asked: str | None) -> tuple[int, int]:
        """The same by the place of a mark in place of the reply, and from behind ``asked``, the prompt for it, if that is there."""
        marked = [*chat.messages]
        marked[number] = {**marked[number], "content": MARK}
        among, last = self._attempt(chat, marked), self._attempt(chat, marked[: number + 1])
        if among is None or last is None or among.count(MARK) != 1 or last.count(MARK) != 1:
            raise LeftOut(UNCLEAR)
        before, after = among.split(MARK)
        if not (whole.startswith(before) and whole.endswith(after) and len(before) + len(after) <= len(whole)):
            raise LeftOut(UNCLEAR)
        shown = _squeezed(whole[len(before) : len(whole) - len(after)])
        content = _squeezed(chat.messages[number]["content"])
        if shown not in content or bool(shown) != bool(content):  # a template may leave out thoughts, and nothing else
            raise LeftOut(UNCLEAR)
        ending = self._turn(last.split(MARK)[1])
        start = len(asked) if asked is not None and before.startswith(asked) else len(before)
        end = len(whole) - len(after) + len(ending if after.startswith(ending) else "")
        span = start, start + len(self._turn(whole[start:end]))
        if not _calls(chat.messages[number], whole[slice(*span)]):
            raise LeftOut(UNCLEAR)
        return span

    def _turn(self, text: str) -> str:
        """A turn up to the token that ends it: what else the template writes behind that is never asked for."""
        token = self.special.pattern
        return re.sub(rf"({token})(?:\s|{token})*\Z|\s+\Z", r"\1", text, count=1)

    def _attempt(self, chat: Chat, messages: Sequence[Message], prompt: bool = False) -> str | None:
        """Some messages as text; None where the template refuses them."""
        try:
            return self.template.render(messages, chat.tools, prompt=prompt)
        except UserError:
            raise
        except Exception:  # a beginning without a user, say
            return None


def _calls(turn: Message, written: str) -> bool:
    """Whether a turn as it is ``written`` shows the calls of tools it makes; one that makes none and is empty shows nothing."""
    return all(call["function"]["name"] in written for call in turn.get("tool_calls", ())) and bool(written)


def _squeezed(text: str) -> str:
    """Without white space, which templates trim and add around thoughts."""
    return "".join(text.split())
