"""Lines, rows and blocks of a file, whatever ends its lines and however long they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from minigpts.corpus.readers import lines
from minigpts.errors import UserError

ENDS = pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])


def write(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_bytes(content.encode())
    return path


@ENDS
def test_every_line_end_is_one(tmp_path, end):
    path = write(tmp_path, "a.txt", end.join(["one", "", "zwei\x0b\x1c\u2028", "drei"]))
    assert list(lines.numbered(path)) == [(1, f"one{end}"), (2, end), (3, f"zwei\x0b\x1c\u2028{end}"), (4, "drei")]
    assert "".join(lines.blocks(path)) == "one\n\nzwei\x0b\x1c\u2028\ndrei"


@ENDS
def test_rows_have_the_numbers_of_their_lines(tmp_path, end):
    json = write(tmp_path, "a.jsonl", end.join(['{"n": 1}', "", " ", '{"n": 2}']))
    assert list(lines.json_rows(json)) == [(1, {"n": 1}), (4, {"n": 2})]


def test_a_long_line_comes_in_blocks_and_is_refused_as_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LONGEST_LINE", 1 << 18)
    path = write(tmp_path, "a.jsonl", '{"n": 1}\n{"n": "' + "x" * (1 << 18) + '"}\n')
    assert max(map(len, lines.blocks(path))) <= 1 << 16
    with pytest.raises(UserError, match=r"a\.jsonl:2: a line of 262,144 characters or more; put one row on a line"):
        list(lines.json_rows(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"n": 1}\n{"n": ' + "9" * 5000 + "}\n", "2: not JSON that can be read"),
        ("[" * 200_000, "1: not JSON that can be read"),
        ('{"n": 1}\n{"n": 1, "m": 2, "n": 3}\n', "2: two keys are named 'n'; rename one of them"),
        ('{"n": {"a": 1, "a": 2}}\n', "1: two keys are named 'a'"),
    ],
)
def test_complaints_name_file_and_line(tmp_path, content, message):
    path = write(tmp_path, "a.jsonl", content)
    with pytest.raises(UserError) as caught:
        list(lines.json_rows(path))
    assert str(caught.value).startswith(f"{path}:{message}") and "\n" not in str(caught.value)
