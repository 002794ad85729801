"""Chats in five layouts are the same chat, from every kind of file; what can't be learnt from is counted, what is none is named."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from minigpts.corpus.chats import Renderer
from minigpts.corpus.readers import notes, text_files
from minigpts.errors import UserError
from tests.unit.corpus.chat_templates import FAMILIES, write_parent

ASKED, SAID = "What does the heart do?", "It beats."
TURNS = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}]
FROM = [{"from": "human", "value": ASKED}, {"from": "gpt", "value": SAID}]
LAYOUTS = [
    ("messages", {"messages": TURNS}),
    ("messages", {"messages": [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in TURNS], "id": 7}),
    ("messages", {"messages": json.dumps(TURNS), "tools": None}),
    ("ShareGPT", {"conversations": FROM, "system": ""}),
    ("prompt and completion", {"prompt": ASKED, "completion": SAID}),
    ("prompt and completion", {"prompt": TURNS[:1], "completion": TURNS[1:]}),
    ("instruction and output", {"instruction": ASKED, "input": "", "output": SAID}),
    ("question and answer", {"question": ASKED, "answer": SAID}),
]
RENDERED = f"User: {ASKED}\n\nAssistant: {SAID}</s>"


def write(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path, folder: Path, family: str | None = None, column: str = "text") -> tuple[list, dict]:
    parent = write_parent(folder / "parent", FAMILIES[family] if family else None)
    texts = text_files.read_corpus(path, text_files.Columns(column), render=Renderer(parent).render).documents
    assert isinstance(texts, text_files.Texts)
    notes.note.cache_clear()
    return list(texts), dict(texts.dropped)


@pytest.mark.parametrize("kind", [".json", ".jsonl", ".parquet"])
@pytest.mark.parametrize(("layout", "row"), LAYOUTS)
def test_a_chat_is_the_same_in_every_layout_and_file(tmp_path, capsys, kind, layout, row):
    path = write(tmp_path / f"train{kind}", [row, row])
    documents, dropped = read(path, tmp_path)
    assert [document.text for document in documents] == [RENDERED] * 2 and not dropped
    (first, end), *more = documents[0].loss_spans
    assert RENDERED[first:end] == f" {SAID}</s>" and not more
    assert documents[0].plain == f"{ASKED}\n\n{SAID}" and documents[0].group == documents[1].group
    assert capsys.readouterr().err == f"{path}: chats, layout {layout}\n"


def test_systems_tools_and_nulls_of_parquet_are_as_the_template_has_them(tmp_path):
    call = {"id": "a", "type": "function", "function": {"name": "pulse", "arguments": '{"of": "heart"}'}}
    turns = [
        {"from": "human", "value": "Its pulse?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "72", "tool_call_id": "a"},
        {"from": "gpt", "value": "72 a minute."},
    ]
    tool = {"type": "function", "function": {"name": "pulse", "parameters": {"type": "object"}}}
    row = {"conversations": turns, "system": "Be exact.", "tools": json.dumps([tool])}
    texts = {
        read(write(tmp_path / f"a{kind}", [row]), tmp_path, "tools")[0][0].text for kind in (".jsonl", ".parquet")
    }  # parquet gives every turn every key
    assert texts == {
        f"<|im_start|>system\nTools: [{json.dumps(tool)}]<|im_end|>\n<|im_start|>system\nBe exact.<|im_end|>\n"
        "<|im_start|>user\nIts pulse?<|im_end|>\n"
        '<|im_start|>assistant\n<call>{"name": "pulse", "arguments": {"of": "heart"}}</call><|im_end|>\n'
        "<|im_start|>tool\n72<|im_end|>\n<|im_start|>assistant\n72 a minute.<|im_end|>"
    }


def test_a_column_of_text_is_read_as_ever_and_one_may_be_named_to_read_chats(tmp_path, capsys):
    path = write(tmp_path / "a.jsonl", [{"text": "The heart beats.", "instruction": ASKED, "output": SAID}])
    documents, _ = read(path, tmp_path)
    assert [(document.text, document.loss_spans) for document in documents] == [("The heart beats.", None)]
    assert capsys.readouterr().err == f"{path}: read as text by its column 'text', not as chats, layout instruction and output\n"
    assert read(path, tmp_path, column="none")[0][0].text == RENDERED
    path = write(tmp_path / "b.parquet", [{"messages": TURNS}])
    assert read(path, tmp_path, column="messages")[0][0].text == RENDERED


IMAGE = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "a.png"}}]


@pytest.mark.parametrize(
    ("row", "family", "dropped"),
    [
        ({"messages": []}, None, "empty rows"),
        ({"instruction": None, "output": ""}, None, "empty rows"),
        ({"messages": [TURNS[0], {"role": "assistant", "content": " "}]}, None, "chats with an empty turn"),
        ({"messages": TURNS[:1]}, None, "chats without a reply"),
        ({"messages": [{"role": "user", "content": IMAGE}, TURNS[1]]}, None, "chats with parts that are no text"),
        ({"messages": [TURNS[0], *TURNS]}, "gemma", "chats that the chat template refuses"),
        ({"conversations": FROM[1:]}, "gemma", "chats that the chat template refuses"),
        ({"prompt": "Is </s> a word?", "completion": SAID}, None, "chats that say a special token"),
    ],
)
def test_what_nothing_can_be_learnt_from_is_counted_and_the_first_is_named(tmp_path, capsys, row, family, dropped):
    path = write(tmp_path / "a.jsonl", [{"messages": TURNS}, row, row])
    documents, counted = read(path, tmp_path, family)
    assert len(documents) == 1 and counted == {dropped: 2}
    named = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert [line.startswith(f"{path}:2: left out, the first of the {dropped}") for line in named] == [True] * (
        dropped != "empty rows"
    )
    if family:
        assert named[0].endswith("(roles must alternate)")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [{"content": ASKED}]}, "a.jsonl:2: turn 1 has no role; there is content"),
        (
            {"messages": [TURNS[0], {"role": "wizard", "content": "a"}]},
            "a.jsonl:2: turn 2 has the role 'wizard'; known are system,",
        ),
        ({"messages": [{"role": {"a": 1}, "content": "a"}]}, "a.jsonl:2: turn 1 has the role {'a': 1}; known are system,"),
        ({"messages": {"role": "user"}}, "a.jsonl:2: 'messages' holds dict, not a list"),
        ({"messages": "Hello."}, "a.jsonl:2: 'messages' is text, and no JSON list"),
        ({"conversations": ["Hello."]}, "a.jsonl:2: turn 1 is str, not an object with a role and a content"),
        ({"messages": [{"role": "user", "content": 7}]}, "a.jsonl:2: turn 1: the content is int, not text or a list of parts"),
        ({"prompt": ASKED, "completion": 4}, "a.jsonl:2: 'completion' holds int, not text"),
        ({"prompt": TURNS, "completion": SAID}, "a.jsonl:2: 'completion' is text, and no JSON list"),
        (
            {"messages": [TURNS[0], {"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "{"}}]}]},
            "a.jsonl:2: turn 2: the arguments of a call of a tool are not valid JSON",
        ),
        ({"messages": TURNS, "tools": ["pulse"]}, "a.jsonl:2: 'tools' must be a list of JSON objects"),
        (
            {"question": ASKED, "choices": ["a", "b"], "answer": 0},
            "a.jsonl:2: no column 'text'; there is question, choices, answer",
        ),
    ],
)
def test_what_is_no_chat_is_refused_by_row(tmp_path, row, message):
    path = write(tmp_path / "a.jsonl", [{"messages": TURNS}, row])
    with pytest.raises(UserError) as caught:
        read(path, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/{message}") and "\n" not in str(caught.value)


def test_without_a_parent_a_chat_is_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"messages": TURNS}])
    texts = text_files.read_corpus(path, text_files.Columns("text"), render=Renderer(None).render).documents
    with pytest.raises(UserError, match=r"a.jsonl:1: holds a chat, which the parent's template must render; give --model"):
        list(texts)
