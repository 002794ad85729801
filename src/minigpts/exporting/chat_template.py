"""What a checkpoint's chat template writes around messages: the token that ends a turn, and the same template as Ollama's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minigpts.model import checkpoint

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

SYSTEM, FIRST, REPLY, SECOND = MARKS = tuple(f"\x01{name}\x01" for name in ("system", "first", "reply", "second"))  # in no template
USER_TURN, REPLIED = {"role": "user", "content": FIRST}, {"role": "assistant", "content": REPLY}
CHAT = [USER_TURN, REPLIED, {"role": "user", "content": SECOND}]
WITH_SYSTEM = [{"role": "system", "content": SYSTEM}, *CHAT]


def turn_end(directory: Path, tokenizer: Tokenizer) -> int | None:
    """The id of the added token that the chat template writes right after a reply; None without a template, or such a token."""
    text = _rendered(checkpoint.load_tokenizer(directory), [USER_TURN, REPLIED], then_reply=False)
    after = (text or "").partition(REPLY)[2].lstrip()
    added = {token.content: token_id for token_id, token in tokenizer.get_added_tokens_decoder().items()}
    return next((added[token] for token in sorted(added, key=len, reverse=True) if after.startswith(token)), None)


def ollama_template(directory: Path) -> str | None:
    """The chat template in Go's language, as Ollama's ``TEMPLATE`` wants it; None where it has no such form.

    It has one where what stands between two messages depends on their roles alone, and before a first one on its role.
    """
    stock = checkpoint.load_tokenizer(directory)
    plain = _between(_rendered(stock, CHAT, then_reply=True), (FIRST, REPLY, SECOND))
    if plain is None or plain[1] != plain[3]:  # what a reply stands behind, and what asks for one
        return None
    before, asks, replied, _ = plain
    with_system = _between(_rendered(stock, WITH_SYSTEM, then_reply=True), MARKS)
    messages = [_message("user", "{{ if eq $i 0 }}" + before + "{{ end }}", asks), _message("assistant", "", replied)]
    if with_system is not None and with_system[2:] == plain[1:]:
        messages.insert(0, _message("system", *with_system[:2]))
    return "{{ range $i, $_ := .Messages }}" + "".join(messages) + "{{ end }}"


def _message(role: str, before: str, behind: str) -> str:
    """Go's text for a message of one role: what the template writes before its content, and behind it."""
    return '{{ if eq .Role "' + role + '" }}' + before + "{{ .Content }}" + behind + "{{ end }}"


def _rendered(tokenizer: PreTrainedTokenizerBase, chat: list[dict[str, str]], then_reply: bool) -> str | None:
    """The chat as text; None without a template, or where the template refuses it."""
    from jinja2 import TemplateError

    if tokenizer.chat_template is None:
        return None
    try:
        return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=then_reply))
    except TemplateError:
        return None


def _between(text: str | None, marks: Sequence[str]) -> list[str] | None:
    """What stands before, between and behind the marks; None where one is missing, or a part would not be text to Ollama."""
    parts, rest = list[str](), text or ""
    for mark in marks:
        part, found, rest = rest.partition(mark)
        if not found:
            return None
        parts.append(part)
    parts.append(rest)
    return None if any("{{" in part or '"""' in part for part in parts) else parts
