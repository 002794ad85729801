"""Rows of csv and tsv, each as those who write it mean it."""

from __future__ import annotations

import csv
import io
import random
from collections import Counter
from pathlib import Path

import pandas
import pytest

from minigpts.corpus.readers import lines, tables
from minigpts.errors import UserError

ENDS = pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
OPEN = "quotes open at the end of a line"


def write(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_bytes(content.encode())
    return path


def read(path: Path) -> tuple[list[tuple[int, dict[str, str]]], dict[str, int]]:
    dropped: Counter[str] = Counter()
    return list(tables.rows(path, dropped)), dict(dropped)


@ENDS
def test_rows_of_csv_have_the_numbers_of_their_lines(tmp_path, end):
    path = write(tmp_path, "a.csv", end.join(["", "n,text", '1,"two', 'lines"', "", '2,"a ""quote"", and"']))
    assert read(path)[0] == [(3, {"n": "1", "text": f"two{end}lines"}), (6, {"n": "2", "text": 'a "quote", and'})]


FIELDS = ['"Yes," he said.', 'an inch is 1"', 'so-called "nails"', "a, b", '""', "plain", '"Where?', 'said "she"', 'ends"']


@ENDS
def test_tsv_without_quoting_is_read_as_it_was_written(tmp_path, end):
    """As most tools write it: fields joined by tabs. A field may begin or end with a quotation mark, and mean it."""
    chance = random.Random(0)
    table = [[chance.choice(FIELDS[:4] + FIELDS[5:]), str(number), chance.choice(FIELDS[5:])] for number in range(500)]
    path = write(tmp_path, "a.tsv", end.join("\t".join(row) for row in [["one", "n", "other"], *table]) + end)
    rows, dropped = read(path)
    assert [list(row.values()) for _, row in rows] == table
    assert [line for line, _ in rows] == list(range(2, 502))
    assert dropped == {OPEN: sum(row[2] == '"Where?' for row in table)}


LINES = ["two\nlines", '"two"\n\n"paragraphs"', "ends in a line\n", "three\nmore\nlines."]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("more", [LINES, ["a\ttab", 'a\t"tab"']])  # a row with both is refused
def test_tsv_of_pandas_and_of_the_csv_module_is_read_as_it_was_written(tmp_path, end, more):
    """They quote fields with tabs, quotation marks and line ends, and double the quotes inside."""
    chance = random.Random(0)
    table = [[chance.choice(FIELDS + more), str(number), chance.choice(FIELDS + more)] for number in range(500)]
    names = ["one", "n", "other"]
    text = io.StringIO()
    csv.writer(text, dialect="excel-tab", lineterminator=end).writerows([names, *table])
    frame = pandas.DataFrame(table, columns=names).to_csv(sep="\t", index=False, lineterminator=end)
    for name, content in (("module.tsv", text.getvalue()), ("pandas.TSV", frame)):
        found, dropped = read(write(tmp_path, name, content))
        assert [[cell.replace(end, "\n") for cell in row.values()] for _, row in found] == table
        assert not dropped


def test_a_quote_never_swallows_a_row(tmp_path):
    content = 'n\ttext\n1\t"Hello\n\n2\t"so\n3\tworld"\n4\t"He" said "no"\n5\t"done"\n'
    rows, dropped = read(write(tmp_path, "a.tsv", content))
    texts = [(3 - 1, '"Hello'), (4, '"so'), (5, 'world"'), (6, '"He" said "no"'), (7, "done")]
    assert [(line, row["text"]) for line, row in rows] == texts and dropped == {OPEN: 2}
    alone, dropped = read(write(tmp_path, "b.tsv", 'text\n"one\ntwo"\n"three"\n'))
    assert [row["text"] for _, row in alone] == ['"one', 'two"', "three"] and dropped == {OPEN: 1}


def test_an_unclosed_quote_does_not_take_the_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LONGEST_LINE", 1000)
    taken: list[int] = []
    numbered = lines.numbered
    monkeypatch.setattr(lines, "numbered", lambda path: ((taken.append(line), (line, text))[1] for line, text in numbered(path)))
    for name, content, message in (
        ("a.csv", 'a,b\n1,2\n1,"open\n' + "3,4\n" * 100_000, r"a\.csv:3: not valid CSV from here on \(field larger"),
        ("a.tsv", 'a\tb\n1\t2\n1\t"open\n' + "3 4\n" * 100_000, r"a\.tsv:4: has fewer columns"),
    ):
        taken.clear()
        with pytest.raises(UserError, match=message):
            read(write(tmp_path, name, content))
        assert len(taken) < 1000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "a,a,b\n1,2,3\n", "1: two columns are named 'a'; rename one of them"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", "3: has more columns than the first line (3, not 2)"),
        ("a.csv", "a,b\n1,2\n1\n", "3: has fewer columns than the first line (1, not 2)"),
        ("a.csv", "a,b\n1,2\n1,\"open\n3,4\n5,6\n", "3: not valid CSV from here on"),
        ("a.csv", "a,b\n1,\"two\nlines\"\n1,\"2\"3\n", "4: not valid CSV from here on"),
        ("a.tsv", "a\ta\tb\n1\t2\t3\n", "1: two columns are named 'a'"),
        ("a.tsv", "a\tb\n1\t2\n1\t2\t3\n", "3: has more columns than the first line"),
        ("a.tsv", 'a\tb\n1\t2\n"1\n', "3: has fewer columns than the first line"),
        ("a.tsv", 'a\tb\n1\t"open\nmore\n2\t"x"\n', "3: has fewer columns than the first line"),
    ],
)  # fmt: skip
def test_complaints_name_file_and_line(tmp_path, name, content, message):
    path = write(tmp_path, name, content)
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}:{message}") and "\n" not in str(caught.value)
