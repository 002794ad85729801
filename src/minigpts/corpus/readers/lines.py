"""Text files, plain or gzip, by lines, JSON objects or blocks: every complaint names the file and the line."""

from __future__ import annotations

import io
import json
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
            row = json.loads(text, object_pairs_hook=_distinct)
        except _TwoKeys as twice:
            raise UserError(f"{path}:{line}: two keys are named '{twice}'; rename one of them") from None
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{line}: not valid JSON ({error.msg} at column {error.colno}); one object a line") from None
        except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
            raise UserError(f"{path}:{line}: not JSON that can be read ({error})") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{line}: not a JSON object; one object a line")
        yield line, row


class _TwoKeys(ValueError):
    """Of an object with the same key twice."""


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise _TwoKeys(twice)
    return row
