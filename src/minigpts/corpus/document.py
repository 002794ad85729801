"""Documents and multiple-choice questions: what every domain and reader yields, and what the splits are made of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from minigpts.corpus.readers.chat_rows import Chat
from minigpts.model.packing import Spans

IDEOGRAPH = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")  # and kana
_NO_WORD = re.compile(r"\W")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")
_ASCII = {code: _NO_WORD.sub(" ", chr(code).lower()) for code in range(128)}


@dataclass(frozen=True)
class Document:
    """One text, and the group of texts that must share its split."""

    text: str
    group: str  # documents of one group land in one split: sibling terms, a block of codes, copies of one text
    source: str  # where it comes from, for the metrics
    plain: str | None = None  # of a chat what is said in it, without its template's marks; None: the text itself
    loss_spans: Spans | None = None  # of a chat which characters the assistant says; None: all of them count

    @property
    def words(self) -> str:
        """What is compared with other texts: a template's marks are common to all chats."""
        return self.text if self.plain is None else self.plain


@dataclass(frozen=True)
class Question:
    """One multiple-choice question, written so that ``Question: {question}\\nAnswer: {choice}`` reads well."""

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int  # 0-based index into the choices
    group: str | None  # it may only test the split that has this group; None: any
    evidence: str  # text that would give the answer away, so the training text must not contain it


@dataclass(frozen=True)
class Corpus:
    """A domain before the split."""

    documents: Iterable[Document]  # each time in the same order; may be larger than memory
    questions: list[Question]
    sources: dict[str, dict[str, str]] = field(default_factory=dict)  # name -> version, licence, acknowledgement
    questions_dropped: Counter[str] = field(default_factory=Counter)  # on reading them, by reason
    # What people may ask about the documents of a group, and the answers: trained on beside the group, where it trains.
    dialogues: Sequence[tuple[Chat, str]] = ()


def normalized(text: str) -> str:
    """Lower-case words with single spaces between them: equal for texts that differ by case, punctuation or layout only.

    An ideograph is a word of its own, since nothing in the text says where words of several end.
    """
    return " ".join(folded(text).translate(_ASCII).split())


def folded(text: str) -> str:
    """The text with all characters beyond ASCII as :func:`normalized` has them, and spaces around ideographs."""
    return text if text.isascii() else _BEYOND_ASCII.sub(lambda match: match[0].translate(_FOLDED), text)


class _Folded(dict[int, str]):
    """Maps a character to what replaces it, worked out when it first occurs."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = f" {character} " if IDEOGRAPH.match(character) else _NO_WORD.sub(" ", character.casefold())
        return self[code]


_FOLDED = _Folded()
