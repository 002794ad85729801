"""Rows that hold chats, told apart by their keys, as messages of one shape: OpenAI's, as chat templates read them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from minigpts.corpus.readers.missing import missing
from minigpts.errors import UserError

Message = dict[str, Any]

ROLES = {
    **{role: "system" for role in ("system", "developer")},
    **{role: "user" for role in ("user", "human")},
    **{role: "assistant" for role in ("assistant", "gpt", "chatgpt", "bot", "model")},
    **{role: "tool" for role in ("tool", "function", "observation", "ipython")},
}
_KEPT = ("tool_calls", "tool_call_id", "name", "reasoning_content", "reasoning", "thinking")  # beside role and content


class LeftOut(Exception):
    """A chat that can't be learnt from; its text is the reason, in the plural, as the metrics count it."""


@dataclass(frozen=True)
class Chat:
    """Who says what, and the tools that the assistant may call."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None

    @property
    def plain(self) -> str:
        """What is said but by the system, whose turn many chats share."""
        return "\n\n".join(filter(None, (said(message) for message in self.messages if message["role"] != "system")))


@dataclass(frozen=True)
class Layout:
    """One way to write a chat in a row."""

    name: str
    needs: frozenset[str]  # the keys it is known by
    turns: Callable[[Mapping[str, Any], str], list[Any]]  # of a row and where it stands
    reads: tuple[str, ...] = ()  # further keys


def layout_of(names: Collection[str]) -> Layout | None:
    """The layout of a row, or a table, with these keys; None for one that holds no chats."""
    if {"choices", "options"} & {*names}:  # a multiple-choice question
        return None
    return next((layout for layout in LAYOUTS if layout.needs <= {*names}), None)


def columns_of(layout: Layout, names: Collection[str]) -> list[str]:
    """The keys among ``names`` that a layout reads."""
    return [name for name in names if name in {*layout.needs, *layout.reads, "system", "tools"}]


def read(layout: Layout, row: Mapping[str, Any], where: str, clean: Callable[[str], str]) -> Chat | None:
    """The row's chat, its texts passed through ``clean``; None where there is none.

    Raises LeftOut for a chat that says nothing to learn, and UserError, naming the row, for what is no chat.
    """
    turns = layout.turns(row, where)
    if not turns:
        return None
    if not missing(row.get("system")) and isinstance(row["system"], str):
        turns = [{"role": "system", "content": row["system"]}, *turns]
    messages = [_message(turn, f"{where}: turn {number}", clean) for number, turn in enumerate(turns, start=1)]
    messages = [message for message in messages if message["role"] != "system" or message["content"]]
    if any(not said(message) for message in messages if message["role"] in ("user", "assistant")):
        raise LeftOut("chats with an empty turn")
    if not any(message["role"] == "assistant" for message in messages):
        raise LeftOut("chats without a reply")
    tools = _list(row.get("tools"), where, "tools")
    if not all(isinstance(tool, dict) for tool in tools):
        raise UserError(f"{where}: 'tools' must be a list of JSON objects")
    return Chat(messages, [_without_nulls(tool) for tool in tools] or None)


def said(message: Message) -> str:
    """A message's text: its content, and the calls of tools it makes."""
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", ())]
    return "\n".join(filter(None, [message["content"].strip(), *calls]))


def _message(turn: Any, where: str, clean: Callable[[str], str]) -> Message:
    """The turn by the names of OpenAI's layout, whether it has those or ShareGPT's."""
    if not isinstance(turn, Mapping):
        raise UserError(f"{where} is {type(turn).__name__}, not an object with a role and a content")
    turn = {key: value for key, value in turn.items() if value is not None}  # parquet fills in what other turns have
    role = turn.get("role", turn.get("from"))
    if role is None:
        raise UserError(f"{where} has no role; there is {', '.join(turn) or 'nothing'}")
    if not isinstance(role, str) or role not in ROLES:
        raise UserError(f"{where} has the role {role!r}; known are {', '.join(ROLES)}")
    content = _content(turn.get("content", turn.get("value")), where)
    message: Message = {"role": ROLES[role], "content": clean(content)}
    message |= {key: _without_nulls(_cleaned(turn[key], clean)) for key in _KEPT if key in turn}
    if "tool_calls" in message:
        message["tool_calls"] = [_call(call, where) for call in _list(message["tool_calls"], where, "tool_calls")]
        if not message["tool_calls"]:
            del message["tool_calls"]
    return message


def _content(content: Any, where: str) -> str:
    """A turn's text: a string, nothing, or a list of parts, of which all must be text."""
    if missing(content):
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise UserError(f"{where}: the content is {type(content).__name__}, not text or a list of parts")
    parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) < len(parts):
        raise LeftOut("chats with parts that are no text")
    return "".join(texts)


def _call(call: Any, where: str) -> dict[str, Any]:
    """A call of a tool, its arguments as an object: OpenAI's layout has them as JSON, which a template would quote."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UserError(f"{where}: a call of a tool must be an object with a name and arguments")
    function = dict(function)
    if isinstance(function.get("arguments"), str):
        try:
            function["arguments"] = json.loads(function["arguments"])
        except ValueError:
            raise UserError(f"{where}: the arguments of a call of a tool are not valid JSON") from None
    return {"type": "function", **({"id": call["id"]} if "id" in call else {}), "function": function}


def _list(value: Any, where: str, name: str) -> list[Any]:
    """A list, given as one or as JSON; empty where it is missing."""
    if isinstance(value, str) and not missing(value):
        try:
            value = json.loads(value)
        except ValueError:
            raise UserError(f"{where}: '{name}' is text, and no JSON list") from None
    if missing(value):
        return []
    if not isinstance(value, list):
        raise UserError(f"{where}: '{name}' holds {type(value).__name__}, not a list")
    return value


def _without_nulls(value: Any) -> Any:
    """The value without the keys that parquet adds to an object because others have them."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _cleaned(value: Any, clean: Callable[[str], str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _cleaned(item, clean) for key, item in value.items()}
    if isinstance(value, list):
        return [_cleaned(item, clean) for item in value]
    return clean(value) if isinstance(value, str) else value


def strings(value: Any) -> list[str]:
    """Every text in messages or tools, names of arguments included."""
    if isinstance(value, Mapping):
        return [text for pair in value.items() for part in pair for text in strings(part)]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []


# The layouts


def _of_list(name: str) -> Callable[[Mapping[str, Any], str], list[Any]]:
    return lambda row, where: _list(row[name], where, name)


def _of_texts(asks: tuple[str, ...], replies: str) -> Callable[[Mapping[str, Any], str], list[Any]]:
    """Of columns of text: those of the question, joined, and that of the reply."""

    def turns(row: Mapping[str, Any], where: str) -> list[Any]:
        texts = [_text(row, name, where) for name in (*asks, replies)]
        asked, reply = "\n\n".join(filter(None, texts[:-1])), texts[-1]
        return [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}] if asked or reply else []

    return turns


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if missing(value):
        return ""
    if not isinstance(value, str):
        raise UserError(f"{where}: '{name}' holds {type(value).__name__}, not text")
    return value


def _prompt_and_completion(row: Mapping[str, Any], where: str) -> list[Any]:
    """Both are text, or both are lists of messages."""
    if isinstance(row["prompt"], list) or isinstance(row["completion"], list):
        return [*_list(row["prompt"], where, "prompt"), *_list(row["completion"], where, "completion")]
    return _of_texts(("prompt",), "completion")(row, where)


LAYOUTS = (
    Layout("messages", frozenset({"messages"}), _of_list("messages")),
    Layout("ShareGPT", frozenset({"conversations"}), _of_list("conversations")),
    Layout("prompt and completion", frozenset({"prompt", "completion"}), _prompt_and_completion),
    Layout(
        "instruction and output", frozenset({"instruction", "output"}), _of_texts(("instruction", "input"), "output"), ("input",)
    ),
    Layout("question and answer", frozenset({"question", "answer"}), _of_texts(("question",), "answer")),
)


def counted(dropped: Counter[str], reason: LeftOut) -> bool:
    """Count a chat that is left out; whether it is the first for this reason."""
    dropped[str(reason)] += 1
    return dropped[str(reason)] == 1
