"""The stage on a user's own text and questions, through params alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from minigpts import artifacts
from minigpts.errors import UserError
from stages import prepare_dataset
from tests.tiny import sentences

OUTPUTS = ("train.parquet", "calibration.parquet", "validation.parquet", "test.parquet", "mcq.jsonl", "dataset.json")


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
    prepare_dataset.main(["--out", str(target), "--metrics", str(target / "dataset.json"), "--params", str(params)])
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
