"""params.yaml is read as DVC reads and writes it, and what it doesn't know is refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from dvc.utils.serialize import dump_yaml, load_yaml

from minigpts import params
from minigpts.errors import UserError

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Section:
    """One field of each kind that a stage declares."""

    text: str
    number: float
    count: int
    switch: bool


# As a person writes it, or `dvc exp run -S` does: what YAML 1.1 and 1.2 read differently.
TEXTS = ["no", "No", "off", "on", "yes", "y", "12:30", "~x", "2026-11-30x", "0o", "<<x"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_value_means_here_what_it_means_to_dvc(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(f"model:\n  text: {text}\n  number: 1e-05\n  count: 0o7\n  switch: true\n")
    seen = load_yaml(path)["model"]
    assert vars(params.read(path, Section, "model")) == seen == {"text": text, "number": 1e-5, "count": 7, "switch": True}


@pytest.mark.parametrize("value", [*TEXTS, "", "null", "1e-5", "true", "a: b", "é\n漢"])
def test_what_dvc_writes_is_read_back(tmp_path, value):
    written = {"text": value, "number": 1e-5, "count": 3, "switch": False}
    dump_yaml(tmp_path / "params.yaml", {"model": written})
    assert vars(params.read(tmp_path / "params.yaml", Section, "model")) == written


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("thresold: 0.1", "unknown parameter 'thresold'; known at the top level: threshold, "),
        ("model: {text: a, number: '0.1', count: 1, switch: true}", "model.number must be a number, got '0.1'"),
        ("model: {text: a, number: true, count: 1, switch: true}", "model.number must be a number, got True"),
        ("model: {text: a, number: .inf, count: 1, switch: true}", "model.number must be a finite number, got inf"),
        ("model: {text: a, number: 1, count: 1, switch: yes}", "model.switch must be of type bool, got 'yes'"),
        ("model: {text: 3, number: 1, count: 1, switch: true}", "model.text must be of type str, got 3"),
        ("model: [", "not valid YAML"),
        ("- a", "must be a mapping of parameters"),
    ],
)
def test_refusals_name_the_parameter(tmp_path, line, message):
    path = tmp_path / "params.yaml"
    path.write_text(line + "\n")
    with pytest.raises(UserError) as caught:
        params.read(path, Section, "model")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_committed_file_has_every_top_level_name():
    assert list(params.TOP_LEVEL) == list(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"model: \xff", "not UTF-8; save it as that"), (b"model:\n  text: \x00", "not valid YAML (unacceptable character #x0000")],
)
def test_what_is_no_text_is_one_line(tmp_path, content, message):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        params.read(path, Section, "model")
    assert str(caught.value).startswith(f"{path}: {message}") and "\n" not in str(caught.value)
