"""The real client against a hub on loopback, in processes of its own: it reads its environment when it is imported."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from minigpts.corpus.readers import hub_datasets
from minigpts.errors import UserError
from tests.hub_server import Hub, Repository, environment

NO_WAITING = "import time; time.sleep = lambda seconds: None\n"  # between the client's attempts
# Each argument is the JSON of what rows() takes; a line comes out for each: the rows, or the one line of the complaint.
ROWS = """
import json, os, sys
from minigpts.errors import UserError
from minigpts.corpus.readers import hub_datasets
for arguments in sys.argv[1:]:
    try:
        print(json.dumps(list(hub_datasets.rows(*json.loads(arguments)))), flush=True)
    except UserError as error:
        print(error, flush=True)
os._exit(0)  # pyarrow's threads may still hold a Python file, and then abort the interpreter's own exit (apache/arrow#34314)
"""


def table(folder: Path, name: str, **columns: list[Any]) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / name)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Repository]:
    root = tmp_path_factory.mktemp("repositories")
    pairs, newer, script, subjects = (root / name for name in ("pairs", "newer", "script", "subjects"))
    for folder in (pairs, newer, script, subjects):
        folder.mkdir()
    table(pairs, "train-00000-of-00002.parquet", en=["a rose", "an oak"], ch=["玫瑰", "橡樹"])
    table(pairs, "train-00001-of-00002.parquet", en=["a fern"], ch=["蕨"])
    table(newer, "train-00000-of-00001.parquet", en=["a moss"], ch=["苔"])
    (script / "script.py").write_text("raise SystemExit('the script ran')")
    (script / "terms.jsonl").write_text('{"masked_sentences": ["A <mask> is due."], "obj_label": "fee", "legal_topic": "tax"}\n')
    (script / "crimes.jsonl").write_text('{"id": 7, "masked_sentences": ["He did <mask>."], "obj_label": "it"}\n')
    (script / "broken.jsonl").write_text('{"masked_sentences": ["A \n')
    table(subjects, "law.parquet", question=["Who?"], choices=[["I", "you"]], answer=[1])
    table(subjects, "art.parquet", question=["What?"], choices=[["this", "that"]], answer=[0])
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: test\n    path: {name}.parquet\n" for name in ("law", "art")
    )
    (subjects / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    return {
        "datasets/us/pairs": Repository({"main": pairs, "v2": newer}),
        "datasets/us/gated": Repository({"main": pairs}, gated=True),
        "datasets/us/script": Repository({"main": script}),
        "datasets/us/subjects": Repository({"main": subjects}),
    }


@pytest.fixture
def hub(repositories: dict[str, Repository]) -> Iterator[Hub]:
    with Hub(repositories) as hub:
        yield hub


def answers(url: str, cache: Path, *arguments: list[Any], program: str = ROWS, **env: str) -> list[str]:
    """A line for each list of arguments."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(json.dumps, arguments)],
        env=environment(url, cache, **env),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(arguments), done.stdout
    return lines


def test_rows_come_with_where_they_stand(hub, tmp_path):
    commit = hub.repositories["datasets/us/pairs"].commit("main")
    branch, pinned, tag, subject, files = answers(
        hub.url,
        tmp_path,
        ["us/pairs", "main", None, "train"],
        ["us/pairs", commit, None, "train"],
        ["us/pairs", "v2", None, "train"],
        ["us/subjects", "main", "law", "test"],
        ["us/script", "main", None, "test", ["terms.jsonl", "crimes.jsonl"]],
    )
    assert [(where, row["en"], row["ch"]) for where, row in json.loads(branch)] == [
        ("us/pairs@main, train: row 1", "a rose", "玫瑰"),
        ("us/pairs@main, train: row 2", "an oak", "橡樹"),
        ("us/pairs@main, train: row 3", "a fern", "蕨"),
    ]
    assert [row for _, row in json.loads(pinned)] == [row for _, row in json.loads(branch)]
    assert [row["en"] for _, row in json.loads(tag)] == ["a moss"]
    assert json.loads(subject) == [
        ["us/subjects@main, law, test: row 1", {"question": "Who?", "choices": ["I", "you"], "answer": 1}]
    ]
    # files whose columns differ, beside a loading script
    at = hub.repositories["datasets/us/script"].commit("main")
    assert [(where, row["obj_label"]) for where, row in json.loads(files)] == [
        (f"hf://datasets/us/script@{at}/terms.jsonl: row 1", "fee"),
        (f"hf://datasets/us/script@{at}/crimes.jsonl: row 1", "it"),
    ]
    assert not [request for request in hub.requests if request.method == "GET" and request.path.endswith(".py")]


def test_what_cannot_be_had_is_one_line(hub, tmp_path):
    lines = answers(
        hub.url,
        tmp_path,
        ["us/nowhere", "main", None, "train"],
        ["us/pairs", "v9", None, "train"],
        ["us/pairs", "0" * 40, None, "train"],
        ["us/pairs", "main", None, "test"],
        ["us/subjects", "main", "music", "test"],
        ["us/script", "main", None, "train"],
        ["us/script", "main", None, "train", ["terms.jsonl", "torts.jsonl"]],
        ["us/script", "main", None, "train", ["broken.jsonl"]],
        ["us/gated", "main", None, "train"],
    )
    nowhere, tag, commit, split, name, script, file, broken, gated = (line.replace(hub.url, "HUB") for line in lines)
    assert nowhere == "us/nowhere@main: no such data set at HUB; check its name, or set HF_TOKEN if it is private"
    assert tag == "us/pairs@v9: the data set has no such revision; check its revision at HUB/datasets/us/pairs/commits"
    assert commit.startswith(f"us/pairs@{'0' * 40}: the data set has no such revision")
    assert split == "us/pairs@main, test: can't be read (Bad split: test. Available splits: ['train'])"
    assert name == "us/subjects@main, music, test: can't be read (BuilderConfig 'music' not found. Available: ['law', 'art'])"
    assert script == "us/script@main, train: can't be read (Dataset scripts are no longer supported, but found script.py)"
    at = hub.repositories["datasets/us/script"].commit("main")
    assert file.startswith(f"hf://datasets/us/script@{at}/torts.jsonl: no such file, or no network to fetch it (")
    assert broken.startswith(f"hf://datasets/us/script@{at}/broken.jsonl: can't be read (")
    terms = "accept its terms at HUB/datasets/us/gated and set HF_TOKEN to a token of that account"
    assert gated == f"us/gated@main: the data set is gated; {terms}"


def test_the_token_of_the_environment_opens_a_gated_data_set(hub, tmp_path):
    (line,) = answers(hub.url, tmp_path, ["us/gated", "main", None, "train"], HF_TOKEN=hub.token)
    assert len(json.loads(line)) == 3
    assert {request.authorization for request in hub.requests} == {f"Bearer {hub.token}"}


def test_without_a_network_is_one_line(hub, tmp_path):
    (line,) = answers("http://127.0.0.1:9", tmp_path, ["us/pairs", "main", None, "train"], program=NO_WAITING + ROWS)
    assert line == "us/pairs@main: can't reach http://127.0.0.1:9; check the network, or HF_ENDPOINT"
    (line,) = answers(hub.url, tmp_path, ["us/pairs", "main", None, "train"], HF_HUB_OFFLINE="1")
    assert line.startswith("us/pairs@main: HF_HUB_OFFLINE is set, and rows come over the network; unset it")
    hub.error = 503
    (line,) = answers(hub.url, tmp_path, ["us/pairs", "main", None, "train"], program=NO_WAITING + ROWS)
    assert line == f"us/pairs@main: {hub.url} answers 503 Service Unavailable; try again later"


def test_a_file_is_read_as_its_name_says(tmp_path):
    table(tmp_path, "a.parquet", text=["one", "two"])
    (tmp_path / "b.csv").write_text('who\ttext\n7\tLet me guess.\n\t"Someone stole\nyour sweetroll."\n')
    with gzip.open(tmp_path / "c.jsonl.gz", "wt") as file:
        file.write('{"text": "three"}\n')
    assert list(hub_datasets.file_rows(str(tmp_path / "a.parquet"))) == [
        (f"{tmp_path}/a.parquet: row 1", {"text": "one"}),
        (f"{tmp_path}/a.parquet: row 2", {"text": "two"}),
    ]
    dialogue = hub_datasets.file_rows(str(tmp_path / "b.csv"), sep="\t", header=0, names=["form", "line"], usecols=["line"])
    assert [row for _, row in dialogue] == [{"line": "Let me guess."}, {"line": "Someone stole\nyour sweetroll."}]
    assert [row for _, row in hub_datasets.file_rows(str(tmp_path / "c.jsonl.gz"))] == [{"text": "three"}]
    with pytest.raises(UserError, match=r"d\.csv: no such file, or no network to fetch it \("):
        list(hub_datasets.file_rows(str(tmp_path / "d.csv")))
