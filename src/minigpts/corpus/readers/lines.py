"""Text files, plain or gzip, by lines, JSON objects or blocks: every complaint names the file and the line."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from minigpts.corpus.readers import encodings
from minigpts.errors import UserError

# Characters. Memory holds a line several times, at up to four bytes a character: 200 MB of one would take gigabytes.
LONGEST_LINE = 1 << 25
_BLOCK = 1 << 16
_SPACE = re.compile(r"[ \t\r\n]*")  # of JSON


@contextmanager
def _text(path: Path, newline: str | None) -> Iterator[TextIO]:
    encoding = encodings.encoding_of(path)
    with encodings.opened(path) as file, io.TextIOWrapper(file, encoding, newline=newline) as text:  # type: ignore[type-var]
        yield text


def blocks(path: Path) -> Iterator[str]:
    """The file's text in blocks of bounded size, however long its lines are; all line ends are ``\\n``."""
    with _text(path, newline=None) as text:
        while block := text.read(_BLOCK):
            yield block


def numbered(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines with their ends: ``\\n``, ``\\r\\n`` or ``\\r``.

    Raises UserError as ``encodings.encoding_of``, and for a line of ``LONGEST_LINE`` characters.
    """
    with _text(path, newline="") as text:
        for number, line in enumerate(iter(lambda: text.readline(LONGEST_LINE), ""), start=1):
            if len(line) == LONGEST_LINE:
                raise UserError(
                    f"{path}:{number}: a line of {LONGEST_LINE:,} characters or more; put one row on a line,"
                    " or a single long text into a txt file, where lines may be of any length"
                )
            yield number, line


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered JSON objects, one a line, without the blank lines.

    Raises UserError as :func:`numbered`, for a line that is no JSON object and for two keys of one name in an object.
    """
    for line, text in numbered(path):
        if text.isspace():
            continue
        try:
            with _readable(f"{path}:{line}"):
                row = json.loads(text, object_pairs_hook=_distinct)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{line}: not valid JSON ({error.msg} at column {error.colno}); one object a line") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{line}: not a JSON object; one object a line")
        yield line, row


def holds_array(path: Path) -> bool:
    """Whether the file begins as a JSON array does. Raises UserError as ``encodings.opened``."""
    with encodings.opened(path) as file:
        return file.read(_BLOCK).lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n").startswith(b"[")


def array_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON objects of a file that is one array of them, numbered from 1. Memory holds an object at a time, not the array.

    Raises UserError naming the row as :func:`json_rows` names the line, and for what is no array from beginning to end.
    """
    number, array = 0, _Text(blocks(path))
    if not array.mark("["):
        raise UserError(f"{path}: not a JSON array")
    following = array.mark("]")  # of an empty one
    while following != "]":
        number += 1
        try:
            with _readable(f"{path}: row {number}"):
                row = array.value()
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}: row {number}: not valid JSON ({error.msg}), or longer than {LONGEST_LINE:,} characters"
            ) from None
        if not isinstance(row, dict):
            raise UserError(f"{path}: row {number}: not a JSON object")
        yield number, row
        following = array.mark(",]")
        if not following:
            raise UserError(f"{path}: not valid JSON after row {number}; a comma or the array's end must follow")
    if not array.is_over():
        raise UserError(f"{path}: goes on behind the array's end, after row {number}; give one array a file")


class _Text:
    """JSON that arrives in blocks, read from its front."""

    def __init__(self, blocks: Iterator[str]) -> None:
        self._blocks, self._text, self._place = blocks, "", 0

    def _more(self) -> bool:
        block = next(self._blocks, "")
        self._text, self._place = self._text[self._place :] + block, 0
        return bool(block)

    def is_over(self) -> bool:
        """Whether only white space is left; passes over it."""
        while True:
            self._place = _SPACE.match(self._text, self._place).end()  # type: ignore[union-attr]
            if self._place < len(self._text):
                return False
            if not self._more():
                return True

    def mark(self, which: str) -> str:
        """The next character, which is then passed over, if it is one of ``which``; else nothing."""
        if self.is_over() or self._text[self._place] not in which:
            return ""
        self._place += 1
        return self._text[self._place - 1]

    def value(self) -> Any:
        """The next value. Raises what the json module raises."""
        self.is_over()
        while True:
            try:
                row, self._place = _DECODER.raw_decode(self._text, self._place)
                return row
            except json.JSONDecodeError:  # perhaps because its end isn't here yet
                size = len(self._text) - self._place
                if size > LONGEST_LINE or not self._more():
                    raise
                while len(self._text) < 2 * size and self._more():
                    pass


@contextmanager
def _readable(where: str) -> Iterator[None]:
    """Turn what the json module says of a value into a UserError, but for a JSONDecodeError: syntax is the caller's to explain."""
    try:
        yield
    except json.JSONDecodeError:
        raise
    except _TwoKeys as twice:
        raise UserError(f"{where}: two keys are named '{twice}'; rename one of them") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
        raise UserError(f"{where}: not JSON that can be read ({error})") from None


class _TwoKeys(ValueError):
    """Of an object with the same key twice."""


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise _TwoKeys(twice)
    return row


_DECODER = json.JSONDecoder(object_pairs_hook=_distinct)
