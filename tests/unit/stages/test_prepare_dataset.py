"""The stage on a user's own text and questions, through params alone."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import yaml

from minigpts import artifacts
from minigpts.errors import UserError
from stages import prepare_dataset
from tests.tiny import sentences
from tests.unit.corpus.chat_templates import FAMILIES, write_parent

OUTPUTS = (
    "train.parquet",
    "calibration.parquet",
    "validation.parquet",
    "test.parquet",
    "mcq.jsonl",
    "keep_terms.json",
    "general.parquet",
    "chat_template.jinja",
    "dataset.json",
)


def write_params(folder: Path, **changes: Any) -> Path:
    values = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["dataset"]
    changes = {"source": str(folder / "text.jsonl"), "text_column": "body", **changes}
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump({"dataset": {**values, **changes}}))
    return path


def write_text(folder: Path, count: int = 400) -> None:
    rows = [json.dumps({"body": text, "id": i}) for i, text in enumerate(sentences(count))]
    (folder / "text.jsonl").write_text("\n".join(rows), encoding="utf-8")
    questions = [
        json.dumps({"question": f"Which organ is number {i}?", "choices": ["heart", "lung"], "answer": i % 2}) for i in range(20)
    ]
    (folder / "mcq.jsonl").write_text("\n".join(questions), encoding="utf-8")


def run(folder: Path, out: str, **changes: Any) -> Path:
    target = folder / out
    params = write_params(folder, **changes)
    flags = {"model": folder / "parent", "out": target, "metrics": target / "dataset.json", "params": params}
    prepare_dataset.main([item for name, path in flags.items() for item in (f"--{name}", str(path))])
    return target


def test_own_text_and_questions_through_params_alone(tmp_path):
    write_text(tmp_path)
    out = run(tmp_path, "one", questions=str(tmp_path / "mcq.jsonl"))
    texts = {name: artifacts.read_table(out / f"{name}.parquet", ["text", "group"]) for name in ("train", "test")}
    assert set(texts["train"]["text"]) < set(sentences(400))
    assert not set(texts["train"]["group"]) & set(texts["test"]["group"])
    rows = artifacts.read_jsonl(out / "mcq.jsonl")
    assert sorted({row["split"] for row in rows}) == ["test", "validation"] and len(rows) == 20
    metrics = artifacts.read_json(out / "dataset.json")
    assert metrics["documents"]["train"] == len(texts["train"]["text"])
    assert metrics["num_questions"] == 20
    assert pyarrow.parquet.read_schema(out / "train.parquet").names == ["text", "group"] and "chats" not in metrics
    assert (out / "chat_template.jinja").read_bytes() == b""


def test_the_same_input_gives_the_same_bytes(tmp_path):
    write_text(tmp_path)
    one, two = (run(tmp_path, name, questions=str(tmp_path / "mcq.jsonl")) for name in ("one", "two"))
    for name in OUTPUTS:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    other = run(tmp_path, "three", seed=1)
    assert (one / "train.parquet").read_bytes() != (other / "train.parquet").read_bytes()


def test_without_questions_the_file_is_empty(tmp_path):
    write_text(tmp_path)
    out = run(tmp_path, "out")
    assert (out / "mcq.jsonl").read_bytes() == b""
    assert artifacts.read_json(out / "dataset.json")["num_questions"] == 0


def prose(number: int, count: int = 100) -> list[str]:
    """Words of chance that no two documents have in the same order."""
    chance = random.Random(number)
    return [f"w{chance.randrange(3000)}" for _ in range(count)]


def write_rows(folder: Path, rows: list[dict[str, str]]) -> None:
    (folder / "text.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))


def test_planted_leaks_are_all_found(tmp_path):
    """The same folder twice: as it is, and with leaks of what then was the test planted all over it."""
    own = [{"body": " ".join(prose(i)), "id": str(i)} for i in range(400)]
    evidence = [prose(1000 + i, 20) for i in range(20)]
    lines = [json.dumps({"question": " ".join(words), "choices": ["heart", "lung"], "answer": 0}) for words in evidence]
    (tmp_path / "mcq.jsonl").write_text("\n".join(lines), encoding="utf-8")
    changes = {"source": str(tmp_path / "text.jsonl.gz"), "questions": str(tmp_path / "mcq.jsonl"), "test_bytes": None}
    write_rows(tmp_path, own)
    before = run(tmp_path, "before", **changes)
    test = artifacts.read_table(before / "test.parquet", ["text"])["text"]
    assert artifacts.read_json(before / "dataset.json")["leak_check"]["leakage"]["test"] == 0

    chance = random.Random(0)
    paragraphs, questions, edits = [], [], []
    for number, text in enumerate(test[:20]):
        start = chance.randrange(60)
        words = prose(2000 + number)
        paragraphs.append(" ".join([*words[:50], *text.split()[start : start + 30], *words[50:]]))
        questions.append(" ".join([*prose(3000 + number), *evidence[number]]))
        changed = text.split()
        for place in chance.sample(range(100), 3):
            changed[place] = "changed"
        edits.append(" ".join(changed).upper())
    planted = [{"body": body, "id": ""} for body in [*paragraphs, *questions, *edits, test[0].replace(" ", ",\n")]]
    write_rows(tmp_path, own + planted)
    after = run(tmp_path, "after", **changes)
    metrics = artifacts.read_json(after / "dataset.json")
    tables = {name: artifacts.read_table(after / f"{name}.parquet", ["text"])["text"] for name in ("train", "calibration")}
    held_out = [
        text for name in ("test", "validation") for text in artifacts.read_table(after / f"{name}.parquet", ["text"])["text"]
    ]
    asked = [row["question"] for row in artifacts.read_jsonl(after / "mcq.jsonl")]
    secrets = {" ".join(text.split()[i : i + 13]) for text in [*held_out, *asked] for i in range(len(text.split()) - 12)}
    for text in [*tables["train"], *tables["calibration"]]:
        words = text.lower().split()
        assert not secrets & {" ".join(words[i : i + 13]) for i in range(len(words) - 12)}
    assert len(asked) == 20 and not {*questions} & {*tables["train"], *tables["calibration"]}
    assert metrics["dropped"]["near_duplicates"] == 20 and metrics["dropped"]["copies"] == 1
    assert metrics["leak_check"]["found"]["train"]["test"] > 0
    assert metrics["leak_check"]["found"]["train"]["test_questions"] > 0
    assert set(metrics["leak_check"]["leakage"].values()) == {0.0}


def test_rows_of_one_group_are_not_separated(tmp_path):
    rows = [{"body": " ".join(prose(i)), "author": f"author {i % 60}"} for i in range(300)]
    write_rows(tmp_path, rows)
    out = run(tmp_path, "out", source=str(tmp_path / "text.jsonl.gz"), group_column="author")
    groups = [set(artifacts.read_table(out / f"{name}.parquet", ["group"])["group"]) for name in ("train", "test", "validation")]
    assert sum(map(len, groups)) == len(set().union(*groups)) and groups[0] | groups[1] <= {row["author"] for row in rows}


def test_general_text_is_written_whole_and_its_sha256_kept(tmp_path):
    write_text(tmp_path)
    nothing = run(tmp_path, "nothing")
    assert artifacts.read_table(nothing / "general.parquet", ["text"]) == {"text": []}
    assert "general_text" not in artifacts.read_json(nothing / "dataset.json")
    (tmp_path / "general").mkdir()
    texts = [f"Once upon a time there were {count} cats." for count in range(30)]
    rows = "".join(json.dumps({"text": text}) + "\n" for text in [*texts, None])
    (tmp_path / "general" / "stories.jsonl").write_text(rows, encoding="utf-8")
    out = run(tmp_path, "out", general_text=str(tmp_path / "general"))
    assert artifacts.read_table(out / "general.parquet", ["text"]) == {"text": texts}
    facts = artifacts.read_json(out / "dataset.json")["general_text"]
    assert facts == {
        "name": "general",
        "sha256": hashlib.sha256(rows.encode()).hexdigest(),
        "documents": 30,
        "bytes": len("".join(texts)),
        "left_out": {"empty rows": 1},
    }
    for name in ("train.parquet", "test.parquet", "mcq.jsonl"):
        assert (out / name).read_bytes() == (nothing / name).read_bytes()


def test_the_sha256_of_the_users_own_files_stands_in_the_metrics(tmp_path):
    write_text(tmp_path)
    out = run(tmp_path, "out", questions=str(tmp_path / "mcq.jsonl"))
    sources = artifacts.read_json(out / "dataset.json")["sources"]
    files = {"local": "text.jsonl", "questions": "mcq.jsonl"}
    assert sources == {
        source: {"name": name, "sha256": hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}
        for source, name in files.items()
    }


def test_questions_are_made_from_each_splits_own_text_and_terms_are_kept(tmp_path):
    rows = [{"en": f"The {' '.join(prose(i, 12))} is here.", "fr": f"Le {' '.join(prose(500 + i, 12))}."} for i in range(300)]
    write_rows(tmp_path, rows)
    (tmp_path / "terms.txt").write_text("pneumothorax\n", encoding="utf-8")
    template = "English: {en}\\nFrench: {fr}"  # as -S passes it
    changes = {"template": template, "make_questions": "translation", "keep_terms": str(tmp_path / "terms.txt")}
    out = run(tmp_path, "out", source=str(tmp_path / "text.jsonl.gz"), **changes)
    made = artifacts.read_jsonl(out / "mcq.jsonl")
    for name in ("validation", "test"):
        texts = artifacts.read_table(out / f"{name}.parquet", ["text"])["text"]
        own = [row for row in made if row["split"] == name]
        assert own and all(any(row["choices"][row["answer"]] in text for text in texts) for row in own)
        assert all("\nFrench: Le " in text for text in texts)
    assert json.loads((out / "keep_terms.json").read_text(encoding="utf-8")) == ["pneumothorax"]


def test_what_was_dropped_is_counted_and_said(tmp_path, capsys):
    rows = [{"body": " ".join(prose(i))} for i in range(300)] + [{"body": " "}, {"body": " ".join(prose(0))}]
    write_rows(tmp_path, rows)
    out = run(tmp_path, "out", source=str(tmp_path / "text.jsonl.gz"))
    metrics = artifacts.read_json(out / "dataset.json")
    assert metrics["left_out"] == {"text": {"empty rows": 1}, "questions": {}} and metrics["dropped"]["copies"] == 1
    assert metrics["num_questions_unused"] == 0
    said = capsys.readouterr().out
    assert "text left out on reading: empty rows 1" in said and "dropped: copies 1" in said
    assert not (out / ".documents.parquet").exists()


@pytest.mark.parametrize("family", ["chatml", None])
def test_chats_are_split_by_what_is_said_and_carry_their_mask(tmp_path, family):
    write_parent(tmp_path / "parent", FAMILIES[family] if family else None)
    system = {"role": "system", "content": " ".join(prose(-1, 40))}  # that all chats share, and that is no leak
    rows = [
        {"messages": [system, {"role": "user", "content": " ".join(prose(i, 20))}, {"role": "assistant", "content": f"Reply {i}."}]}
        for i in range(300)
    ]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    out = run(tmp_path, "out")
    metrics = artifacts.read_json(out / "dataset.json")
    assert metrics["dropped"]["copies"] == 1 and set(metrics["leak_check"]["leakage"].values()) == {0.0}
    assert sum(metrics["documents"].values()) > 290 and metrics["chats"]["read"] == 301
    end = "<|im_end|>" if family else "</s>"
    for name in ("train", "calibration", "validation", "test"):
        columns = artifacts.read_table(out / f"{name}.parquet", ["text", "group", "loss_spans"])
        for text, spans in zip(columns["text"], columns["loss_spans"], strict=True):
            assert re.fullmatch(rf" ?Reply \d+\.{re.escape(end)}", text[slice(*spans[0])]) and len(spans) == 1
    shown = metrics["chats"]["examples"]
    assert len(shown) == 3 and all(chat["text"][slice(*chat["loss_spans"][0])].endswith(end) for chat in shown)
    assert bool((out / "chat_template.jinja").read_bytes()) == (family is None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_share": 0}, "dataset.test_share"),
        ({"test_share": 0.5, "calibration_share": 0.5}, "must be below 1"),
        ({"validation_bytes": 0}, "dataset.validation_bytes"),
        ({"test_questions": -1}, "dataset.test_questions"),
        ({"source": None, "domain": "law"}, "dataset.domain must be one of medical"),
        ({"text_column": "text"}, "no column 'text'; there is body, id"),
        ({"source": "nowhere.jsonl"}, "nowhere.jsonl: no such file or folder"),
        ({"test_bytes": 100}, "came out for test"),
        ({"max_leakage": 1.5}, "dataset.max_leakage"),
        ({"make_questions": "cloze"}, "dataset.make_questions must be one of completion, translation"),
        ({"group_column": "author"}, "no column 'author'"),
        ({"keep_terms": "nowhere.txt"}, "nowhere.txt: no such file"),
        ({"general_text": "nowhere"}, "nowhere: no such file or folder; dataset.general_text must name your text"),
        ({"general_text": "params.yaml"}, "params.yaml: not a kind of text file"),
    ],
)
def test_bad_input_is_one_line_and_leaves_earlier_outputs_whole(tmp_path, changes, message):
    write_text(tmp_path)
    out = run(tmp_path, "out")
    before = {name: (out / name).read_bytes() for name in OUTPUTS}
    with pytest.raises(UserError, match=message) as caught:
        run(tmp_path, "out", **changes)
    assert "\n" not in str(caught.value)
    assert {name: (out / name).read_bytes() for name in OUTPUTS} == before
