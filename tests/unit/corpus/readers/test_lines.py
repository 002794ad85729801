"""Lines, rows and blocks of a file, whatever ends its lines and however long they are."""

from __future__ import annotations

import json
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
    path = write(tmp_path, "a.jsonl", end.join(['{"n": 1}', "", " ", '{"n": 2}']))
    assert list(lines.json_rows(path)) == [(1, {"n": 1}), (4, {"n": 2})]


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


@pytest.mark.parametrize("block", [1, 7, 1 << 16])
@pytest.mark.parametrize("layout", [{}, {"indent": 3}, {"separators": (",", ":")}, {"ensure_ascii": False}])
def test_an_array_gives_its_objects_wherever_blocks_end(tmp_path, monkeypatch, block, layout):
    monkeypatch.setattr(lines, "_BLOCK", block)
    rows = [{"text": text, "n": [{"a": -1.5e3}, None, []]} for text in ('A "heart", [{}] beats.', "Über\\", "", "é✓😀")] * 3
    path = write(tmp_path, "a.json", f"\ufeff \n{json.dumps(rows, **layout)}\n ")
    assert list(lines.array_rows(path)) == list(enumerate(rows, start=1))
    assert list(lines.array_rows(write(tmp_path, "b.json", " [ ] "))) == []


def test_what_begins_an_array_is_told_from_what_does_not(tmp_path):
    for content in (" \n[", "\ufeff[1]"):
        for encoding in ("utf-8", "utf-16", "utf-32"):
            path = tmp_path / "a.json"
            path.write_bytes(content.encode(encoding))
            assert lines.holds_array(path), (content, encoding)
    for content in ("", " ", '{"a": [1]}', '"["'):
        assert not lines.holds_array(write(tmp_path, "b.json", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"n": 1}', "not a JSON array"),
        ('[{"n": 1}, 2]', "row 2: not a JSON object"),
        ('[{"n": 1}, {"n" 2}, {"n": 3}]', "row 2: not valid JSON (Expecting ':' delimiter)"),
        ('[{"n": 1}, ]', "row 2: not valid JSON (Expecting value)"),
        ('[{"n": 1} {"n": 2}]', "not valid JSON after row 1; a comma or the array's end must follow"),
        ('[{"n": 1}, {"n": 2}', "not valid JSON after row 2; a comma or the array's end must follow"),
        ('[{"n": 1}, {"n": "', "row 2: not valid JSON (Unterminated string"),
        ('[{"n": 1}] [{"n": 2}]', "goes on behind the array's end, after row 1"),
        ('[{"n": 1, "m": 2, "n": 3}]', "row 1: two keys are named 'n'; rename one of them"),
        ('[{"n": ' + "9" * 5000 + "}]", "row 1: not JSON that can be read"),
        ("[" * 200_000, "row 1: not JSON that can be read"),
        ('[{"n": "' + "x" * (1 << 19) + '"}]', "row 1: not valid JSON (Unterminated string"),
    ],
)
def test_complaints_about_an_array_name_the_row(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(lines, "LONGEST_LINE", 1 << 18)
    path = write(tmp_path, "a.json", content)
    with pytest.raises(UserError) as caught:
        list(lines.array_rows(path))
    assert str(caught.value).startswith(f"{path}: {message}") and "\n" not in str(caught.value)
