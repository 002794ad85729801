"""Reads a user's glossary: the terms whose tokens pruning the vocabulary must keep."""

from __future__ import annotations

from pathlib import Path

from minigpts.corpus.readers import lines
from minigpts.errors import UserError


def read_terms(path: Path) -> list[str]:
    """The distinct terms of a text file with one term a line, in order and stripped.

    Skips empty lines and those that begin with ``#``. Raises UserError for a file that is missing or has no term, and as
    ``lines.numbered`` for one that isn't text.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; dataset.keep_terms names a text file with one term a line")
    stripped = (text.strip() for _, text in lines.numbered(path))
    terms = list(dict.fromkeys(text for text in stripped if text and not text.startswith("#")))
    if not terms:
        raise UserError(f"{path}: no term in it; write one term a line, or set dataset.keep_terms to null")
    return terms
