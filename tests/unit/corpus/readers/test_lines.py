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
    csv = write(tmp_path, "a.csv", end.join(["", "n,text", '1,"two', 'lines"', "", '2,"a ""quote"", and"']))
    assert list(lines.csv_rows(csv)) == [(3, {"n": "1", "text": f"two{end}lines"}), (6, {"n": "2", "text": 'a "quote", and'})]


def test_tabs_part_the_columns_of_a_tsv(tmp_path):
    assert list(lines.csv_rows(write(tmp_path, "a.TSV", "n\ttext\n1\ta, b\n"))) == [(2, {"n": "1", "text": "a, b"})]


def test_a_long_line_comes_in_blocks_and_is_refused_as_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LONGEST_LINE", 1 << 18)
    path = write(tmp_path, "a.jsonl", '{"n": 1}\n{"n": "' + "x" * (1 << 18) + '"}\n')
    assert max(map(len, lines.blocks(path))) <= 1 << 16
    with pytest.raises(UserError, match=r"a\.jsonl:2: a line of 262,144 characters or more; put one row on a line"):
        list(lines.json_rows(path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"n": 1}\n{"n": ' + "9" * 5000 + "}\n", "a.jsonl:2: not JSON that can be read"),
        ("a.jsonl", "[" * 200_000, "a.jsonl:1: not JSON that can be read"),
        ("a.csv", "a,a,b\n1,2,3\n", "a.csv:1: two columns are named 'a'"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", "a.csv:3: has more columns than the first line"),
        ("a.csv", "a,b\n1,2\n1\n", "a.csv:3: has fewer columns than the first line"),
        ("a.csv", "a,b\n1,2\n1,\"open\n3,4\n5,6\n", "a.csv:3: not valid CSV from here on"),
        ("a.csv", "a,b\n1,\"two\nlines\"\n1,\"2\"3\n", "a.csv:4: not valid CSV from here on"),
    ],
)  # fmt: skip
def test_complaints_name_file_and_line(tmp_path, name, content, message):
    path = write(tmp_path, name, content)
    with pytest.raises(UserError) as caught:
        list(lines.json_rows(path) if name == "a.jsonl" else lines.csv_rows(path))
    assert str(caught.value).startswith(f"{tmp_path}/{message}") and "\n" not in str(caught.value)


def test_an_unclosed_quote_does_not_take_the_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LONGEST_LINE", 1000)
    path = write(tmp_path, "a.csv", 'a,b\n1,2\n1,"open\n' + "3,4\n" * 100_000)
    read: list[int] = []
    numbered = lines.numbered
    monkeypatch.setattr(lines, "numbered", lambda path: ((read.append(line), (line, text))[1] for line, text in numbered(path)))
    with pytest.raises(UserError, match=r"a\.csv:3: not valid CSV from here on \(field larger"):
        list(lines.csv_rows(path))
    assert len(read) < 1000
