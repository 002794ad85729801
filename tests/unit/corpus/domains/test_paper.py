"""The registry's own entries through the real client, on stand-ins for their tables at a loopback hub and in local files.

That the real tables look so could not be seen: no hub was in reach.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from minigpts.corpus.domains.paper import PAPER_DOMAINS, HubTable
from tests.hub_server import Hub, Repository, environment

# What each of the paper's domains gives, or its complaint; files at addresses are taken from a folder instead.
CORPORA = """
import json, os, sys
from dataclasses import asdict, replace
from minigpts.corpus.domains.paper import PAPER_DOMAINS, WebTable
from minigpts.errors import UserError
folder, *names = sys.argv[1:]
found = {}
for name in names:
    domain = PAPER_DOMAINS[name]
    here = {"paper_questions": domain.paper_questions and folder + "/" + domain.paper_questions.rpartition("/")[2]}
    if isinstance(domain.table, WebTable):
        here["table"] = replace(domain.table, address=folder + "/" + domain.table.address.rpartition("/")[2])
    try:
        corpus = replace(domain, **here).corpus()
        documents = list(corpus.documents)
        assert documents == list(corpus.documents)
        found[name] = {
            "texts": [document.text for document in documents],
            "dropped": corpus.documents.dropped,
            "questions": [asdict(question) for question in corpus.questions],
            "questions_dropped": corpus.questions_dropped,
            "sources": corpus.sources,
        }
    except UserError as error:
        found[name] = str(error)
print(json.dumps(found), flush=True)
os._exit(0)  # pyarrow's threads may still hold a Python file, and then abort the interpreter's own exit (apache/arrow#34314)
"""
QUESTION = {"choices": ["one", "two", "three", "four"], "answer": 2}


def jsonl(path: Path, *rows: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def table(path: Path, **columns: list[Any]) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def corpora(folder: Path, url: str, *names: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", CORPORA, str(folder), *names],
        env=environment(url, folder / "cache"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def repositories(tmp_path: Path) -> dict[str, Repository]:
    medquad, lama, mmlu, pairs = (tmp_path / name for name in ("medquad", "lama", "mmlu", "pairs"))
    for folder in (medquad, lama, mmlu, pairs):
        folder.mkdir()
    table(medquad / "train.parquet", text=["### Instruction:\nWhat is a cold?\n\n### Response:\nAn infection.", None])
    (lama / "legal_lama.py").write_text("raise SystemExit('the script ran')")
    term = {"masked_sentences": ["The <mask> binds both parties."], "obj_label": "contract", "legal_topic": "business law"}
    jsonl(lama / "us_terms.jsonl", term)
    jsonl(lama / "us_crimes.jsonl", {"id": 3, "masked_sentences": ["He was tried for <mask>."], "obj_label": "arson"})
    jsonl(lama / "contract_sections.jsonl", {"masked_sentences": ["<mask>. Notices are in writing."], "obj_label": "Notices"})
    subjects = [subject for domain in PAPER_DOMAINS.values() for subject in domain.mmlu]
    configs = ""
    for subject in subjects:
        choices = [["a", "b", "c", "d"], ["same", "same", "x", "y"]]
        table(mmlu / f"{subject}.parquet", question=[f"A question of {subject}?", "Twice?"], choices=choices, answer=[1, 0])
        configs += f"- config_name: {subject}\n  data_files:\n  - split: test\n    path: {subject}.parquet\n"
    (mmlu / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    table(pairs / "train.parquet", en=["Good morning."], ch=["早安。"])
    tables = {"medquad": medquad, "legal": lama, "translation": pairs}
    found = {
        f"datasets/{PAPER_DOMAINS[name].table.repo_id}": {PAPER_DOMAINS[name].table.revision: folder}
        for name, folder in tables.items()
    }
    found["datasets/cais/mmlu"] = {"c30699e8356da336a370243923dbaf21066bb9fe": mmlu}
    # a hub knows main, whichever else it is asked for
    return {name: Repository({**revisions, "main": next(iter(revisions.values()))}) for name, revisions in found.items()}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_files(folder: Path) -> None:
    said = ["I am sworn to carry your burdens.", '"Sworn?', '"Let me guess."', 'Someone "stole" it."', "None", ""]
    lines = ["FORMID\tname\t\ttype\t\t1\tRESPONSE\t\t", *(f"0001\tLydia\t\tDialogue\t\t1\t{line}\t\t" for line in said)]
    (folder / "skyrim_dialogue.csv").write_text("\n".join(lines) + "\n")
    articles = ',URL,Text\n0,http://a.example,"Prices rose, and\nwages fell."\n1,http://b.example,\n'
    (folder / "economics_text_dataset_8500.csv").write_text(articles)
    for domain in PAPER_DOMAINS.values():
        if domain.paper_questions:
            name = domain.paper_questions.rpartition("/")[2]
            (folder / name).write_text(json.dumps({"context": "Test:", "questions": {f"Of {name}?": QUESTION}}))


def test_every_domain_gives_its_text_and_questions(repositories, tmp_path):
    write_files(tmp_path)
    with Hub(repositories) as hub:
        found = corpora(tmp_path, hub.url, *PAPER_DOMAINS)
    assert {name: corpus["texts"] for name, corpus in found.items()} == {
        "medquad": ["### Instruction:\nWhat is a cold?\n\n### Response:\nAn infection."],
        "legal": ["The contract binds both parties.", "He was tried for arson.", "Notices. Notices are in writing."],
        "economics": ["Prices rose, and\nwages fell."],
        "skyrim": ["I am sworn to carry your burdens.", '"Sworn?', "Let me guess.", 'Someone "stole" it."', "None"],
        "translation": ["English: Good morning.\nTaiwanese Mandarin: 早安。"],
    }
    assert [found[name]["dropped"] for name in ("medquad", "economics", "skyrim")] == [{"empty rows": 1}] * 3
    for name, domain in PAPER_DOMAINS.items():
        corpus = found[name]
        asked = [question["question"] for question in corpus["questions"]]
        paper = [f"Test:\nOf {domain.paper_questions.rpartition('/')[2]}?"] if domain.paper_questions else []
        assert asked == [*paper, *(f"A question of {subject}?" for subject in domain.mmlu)]
        assert [question["answer"] for question in corpus["questions"]] == [2] * len(paper) + [1] * len(domain.mmlu)
        assert corpus["questions_dropped"].get("questions with equal choices", 0) == len(domain.mmlu)
        facts = corpus["sources"][domain.title]
        assert facts["licence"] == domain.licence
        if isinstance(domain.table, HubTable):
            assert facts["repository"] == domain.table.repo_id
            assert facts["revision"] == repositories[f"datasets/{domain.table.repo_id}"].commit(domain.table.revision)
        else:
            assert facts["sha256"] == sha256(tmp_path / domain.table.address.rpartition("/")[2])
        if domain.paper_questions:
            facts = corpus["sources"]["questions of the paper"]
            assert facts["sha256"] == sha256(tmp_path / domain.paper_questions.rpartition("/")[2])


def test_a_file_that_moves_while_it_is_read_is_read_as_it_was_hashed(tmp_path):
    write_files(tmp_path)
    path = tmp_path / "economics_text_dataset_8500.csv"
    table = replace(PAPER_DOMAINS["economics"].table, address=str(path)).pinned()
    before = sha256(path)
    path.write_text("URL,Text\n2,Another.\n")
    assert [row["Text"] for _, row in table.rows()] == ["Prices rose, and\nwages fell.", ""]
    assert table.facts() == {"address": str(path), "sha256": before}


def test_a_table_that_has_changed_is_one_line(repositories, tmp_path):
    write_files(tmp_path)
    folder = repositories[f"datasets/{PAPER_DOMAINS['legal'].table.repo_id}"].folder("main")
    jsonl(folder / "us_terms.jsonl", {"sentence": "A [MASK].", "label": "fee"})
    pairs = repositories[f"datasets/{PAPER_DOMAINS['translation'].table.repo_id}"].folder("main")
    table(pairs / "train.parquet", english=["Good morning."], chinese=["早安。"])
    (tmp_path / "economics_text_dataset_8500.csv").write_text("url,body\nx,y\n")
    with Hub(repositories) as hub:
        found = corpora(tmp_path, hub.url, "legal", "economics", "translation")
    assert "us_terms.jsonl: row 1: no column 'text'; there is sentence, label" in found["legal"]
    assert "economics_text_dataset_8500.csv: can't be read (" in found["economics"]
    assert "row 1: no column 'en'; there is english, chinese" in found["translation"]


def test_without_a_network_is_one_line(tmp_path):
    write_files(tmp_path)
    (line,) = corpora(tmp_path, "http://127.0.0.1:9", "translation").values()
    assert (
        line
        == f"{PAPER_DOMAINS['translation'].table.repo_id}@main: can't reach http://127.0.0.1:9; check the network, or HF_ENDPOINT"
    )
