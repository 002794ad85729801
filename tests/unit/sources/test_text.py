"""Local text and question files: what is read, and what the complaints say."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from minigpts import artifacts
from minigpts.errors import UserError
from minigpts.sources import text

TEXTS = ["The heart\nbeats.", 'Über, "lungs"', "A nail; a tooth."]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def jsonl(texts: list[str] = TEXTS) -> str:
    return "".join(json.dumps({"n": i, "text": item}, ensure_ascii=False) + "\n" for i, item in enumerate(texts))


def csv() -> str:
    return "n,text\n" + "".join('{},"{}"\n'.format(i, item.replace('"', '""')) for i, item in enumerate(TEXTS))


def read(path: Path, column: str = "text") -> list[str]:
    return [document.text for document in text.read_corpus(path, column).documents]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", jsonl()),
        ("a.jsonl.gz", jsonl()),
        ("marked.jsonl", "\ufeff" + jsonl()),
        ("gaps.jsonl", jsonl([TEXTS[0], "", "  "]) + "\n" + jsonl(TEXTS[1:])),
        ("a.csv", csv()),
        ("a.csv.gz", csv()),
        ("windows.csv", csv().replace("\nbeats", "\0").replace("\n", "\r\n").replace("\0", "\nbeats")),
        ("a.txt", "\n\n".join(TEXTS) + "\n"),
        ("A.TXT", "\n \n\n".join(TEXTS)),
    ],
)
def test_every_format_gives_the_same_documents(tmp_path, name, content):
    assert read(write(tmp_path, name, content)) == TEXTS


def test_parquet_and_a_folder_of_files_in_the_order_of_their_names(tmp_path):
    artifacts.write_table(tmp_path / "b" / "b.parquet", {"text": [TEXTS[1], None], "n": [1, 2]})
    write(tmp_path, "a.jsonl", jsonl(TEXTS[:1]))
    write(tmp_path, "c.txt", TEXTS[2])
    write(tmp_path, "README.md", "not read")
    assert read(tmp_path) == TEXTS


def test_copies_share_a_group_and_nothing_else_does(tmp_path):
    documents = text.read_corpus(write(tmp_path, "a.jsonl", jsonl([*TEXTS, "über (lungs)"])), "text").documents
    assert documents[3].group == documents[1].group
    assert len({document.group for document in documents}) == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", jsonl() + "{'text'}\n", "a.jsonl:4: not valid JSON"),
        ("a.jsonl.gz", jsonl() + "[1]\n", "a.jsonl.gz:4: not a JSON object"),
        ("a.jsonl", jsonl() + '{"body": ""}\n', "a.jsonl:4: no column 'text'; there is body"),
        ("a.jsonl", '{"text": 3}', "a.jsonl:1: 'text' holds int, not text"),
        ("a.jsonl", jsonl().encode() + b'{"text": "caf\xe9"}\n', "a.jsonl:4: not UTF-8 (byte 0xe9)"),
        ("a.jsonl", "\n", "a.jsonl: holds no text"),
        ("a.csv", "n,body\n1,x\n", "a.csv: no column 'text'; there is n, body"),
        ("a.csv", "", "a.csv: holds no text"),
        ("a.csv", csv() + '4,"open\n', "a.csv:6: not valid CSV"),
        ("a.csv", csv() + "4\n", "a.csv:6: has fewer columns than the first line"),
        ("a.parquet", b"PAR1", "a.parquet: not a readable parquet file"),
        ("a.txt", b"caf\xe9", "a.txt:1: not UTF-8"),
        ("a.docx", b"", "a.docx: not a kind of text file"),
    ],
)
def test_complaints_name_file_and_line_in_one_line(tmp_path, name, content, message):
    with pytest.raises(UserError) as caught:
        read(write(tmp_path, name, content))
    assert str(caught.value).removeprefix(f"{tmp_path}/").startswith(message)
    assert "\n" not in str(caught.value)


def test_a_truncated_gzip_file_is_named(tmp_path):
    path = write(tmp_path, "a.jsonl.gz", jsonl() * 100)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="not a whole gzip file"):
        read(path)


def test_missing_places_are_named(tmp_path):
    for path, message in ((tmp_path / "nowhere", "no such file or folder"), (tmp_path, "no text files in this folder")):
        with pytest.raises(UserError, match=message):
            read(path)
    with pytest.raises(UserError, match=r"dataset\.questions"):
        text.read_questions(tmp_path / "nowhere.jsonl")


def test_answers_are_an_index_or_a_choice(tmp_path):
    rows = [{"question": " Which? ", "choices": ["a", " b "], "answer": answer} for answer in (1, "b", 0)]
    path = write(tmp_path, "q.jsonl", "\n".join(map(json.dumps, rows)))
    questions = text.read_questions(path)
    assert [question.answer for question in questions] == [1, 1, 0]
    assert questions[0].question == "Which?" and questions[0].choices == ("a", "b")
    assert [question.id for question in questions] == ["q.jsonl:1", "q.jsonl:2", "q.jsonl:3"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 2}, "'answer' must be one of the choices, or its index from 0 to 1, got 2"),
        ({"answer": -1}, "got -1"),
        ({"answer": True}, "got True"),
        ({"answer": None}, "got None"),
        ({"answer": "c"}, "got 'c'"),
        ({"choices": ["a"]}, "'choices' must be"),
        ({"choices": "ab"}, "'choices' must be"),
        ({"choices": ["a", "a "]}, "'choices' must differ"),
        ({"question": " "}, "'question' must be"),
    ],
)
def test_a_question_without_a_valid_answer_is_named_by_its_line(tmp_path, change, message):
    good = {"question": "Which?", "choices": ["a", "b"], "answer": 0}
    path = write(tmp_path, "q.jsonl", f"{json.dumps(good)}\n\n{json.dumps({**good, **change})}\n")
    with pytest.raises(UserError, match=r"q\.jsonl:3: ") as caught:
        text.read_questions(path)
    assert message in str(caught.value)
