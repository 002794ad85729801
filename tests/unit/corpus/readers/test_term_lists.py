"""A glossary is read as its author means it, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from minigpts.corpus.readers.term_lists import read_terms
from minigpts.errors import UserError


def test_one_term_a_line_without_comments_blanks_and_copies(tmp_path: Path) -> None:
    path = tmp_path / "terms.txt"
    path.write_bytes("\ufeff# of the ward\r\n\r\n  nystagmus \r\nC#\r\nGuillain–Barré syndrome\r\n\t\r\nnystagmus\r\n肺".encode())
    assert read_terms(path) == ["nystagmus", "C#", "Guillain–Barré syndrome", "肺"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"# nothing yet\n\n", "no term in it"),
        ("a\nnaïve\n".encode("utf-16-le"), "UTF-8"),
    ],
)
def test_a_glossary_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "terms.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        read_terms(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)
