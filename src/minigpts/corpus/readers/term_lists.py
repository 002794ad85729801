"""A user's glossary: the terms that no cut of the vocabulary may touch."""

from __future__ import annotations

from pathlib import Path

from minigpts.corpus.readers import lines
from minigpts.errors import UserError


def read_terms(path: Path) -> list[str]:
    """The terms of a text file, one a line, each once, in order, without the blanks around them.

    Empty lines and those that begin with ``#`` are passed over. Raises UserError for a file that is missing or without any term,
    and as ``lines.numbered`` for one that isn't text.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; dataset.keep_terms names a text file with one term a line")
    stripped = (text.strip() for _, text in lines.numbered(path))
    terms = list(dict.fromkeys(text for text in stripped if text and not text.startswith("#")))
    if not terms:
        raise UserError(f"{path}: no term in it; write one term a line, or set dataset.keep_terms to null")
    return terms
