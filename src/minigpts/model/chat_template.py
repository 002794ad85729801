"""A checkpoint's chat template, rendered in transformers' sandbox, on a day that doesn't pass.

Some templates ask the clock (Llama 3.2's): what the pipeline writes must not depend on the date.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

from minigpts import artifacts
from minigpts.untrusted import bounded

NAME = "chat_template.jinja"
SECONDS, BYTES = 10, 1 << 30  # most that rendering a chat may take: the sandbox bounds each range, but not how they are nested
DAY = date(2024, 7, 26)  # what Llama 3.2's writes where there is no clock

# Put before a template, it answers for the clock.
_CLOCK = "{% macro strftime_now(format) %}{{ days[format] }}{% endmacro %}{{ '' }}"


def on_the_day(date_format: str) -> str:
    """:data:`DAY` in a format."""
    return DAY.strftime(date_format)


def special_tokens(directory: Path) -> dict[str, str]:
    """The special tokens of a checkpoint folder's tokenizer by role, as templates name them: "eos_token"."""
    settings = artifacts.read_json(directory / "tokenizer_config.json")
    return {role: token for role, token in settings.items() if role.endswith("_token") and isinstance(token, str)}


@dataclass(frozen=True)
class ChatTemplate:
    """A template in Jinja's language, and the special tokens it may write."""

    where: str  # the file that holds it, for messages
    source: str
    special: Mapping[str, str]  # by role: "eos_token"

    @classmethod
    def of(cls, directory: Path) -> ChatTemplate | None:
        """The template of a checkpoint folder; None where it has none."""
        path = directory / NAME
        return cls(str(path), path.read_text(encoding="utf-8"), special_tokens(directory)) if path.exists() else None

    def render(
        self,
        chat: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        prompt: bool = False,
        day: Callable[[str], str] = on_the_day,
    ) -> str:
        """The chat as text, followed by what asks for a reply where ``prompt`` is set; ``day`` is the date in a format.

        Raises whatever the template raises: it is a program, and some refuse a system message or two users in a row. Raises
        UserError for one that goes on and on: that is no refusal, and the next chat may take as long.
        """
        from transformers.utils.chat_template_utils import render_jinja_template

        days = {literal: day(literal) for literal in self.literals if "%" in literal}
        given = None if tools is None else [dict(tool) for tool in tools]
        with bounded(f"{self.where}: the chat template", SECONDS, BYTES):
            texts, _ = render_jinja_template(
                [list(chat)], given, chat_template=_CLOCK + self.source, add_generation_prompt=prompt, days=days, **self.special
            )
        return str(texts[0])

    @cached_property
    def literals(self) -> list[str]:
        """The text between the template's tags and the strings inside them, trimmed as transformers has Jinja trim them."""
        from jinja2 import Environment

        stream = Environment(trim_blocks=True, lstrip_blocks=True).lexer.tokenize(self.source)
        return [token.value for token in stream if token.type in ("data", "string")]
