"""Between domains: what is asked for becomes params, what is compared is what the stages would measure."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from dvc.utils.hydra import apply_overrides

from benchmarks.experiments import cross_domain, domains, queue
from benchmarks.experiments.cross_domain import Run
from minigpts import artifacts
from minigpts.errors import UserError
from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from minigpts.model.weights import write_tensors
from minigpts.profiling.recorder import profile
from minigpts.vocabulary.counts import count_tokens, write_counts
from stages import evaluate, prune_embeddings
from tests import tiny
from tests.e2e.project import write_params

COLUMNS = {
    "domains": "domain,size_reduction,tuned_tokens,bits_per_byte_parent,bits_per_byte,acc_parent,acc,acc_stderr"
    ",paper_acc_parent,paper_acc,recovery_tokens",
    "cross_domain": "domain,evaluated_on,bits_per_byte,bits_per_byte_parent,acc,acc_parent",
    "calibration_domains": "domain,calibrated_on,refit,neurons_removed,perplexity,perplexity_parent",
}
SIZES = {
    "prune_neurons.sequence_length": 32,
    "evaluate.sequence_length": 64,
    "speech.tokens": 0,
    "runtime.batch_tokens": 512,
    "runtime.num_threads": 1,
    "embedding_threshold": 0.0,
}


def make_domain(folder: Path, base: Path, texts: list[str], questions: bool) -> Run:
    """What a finished experiment leaves: a child whose vocabulary is that of its texts, and the metrics of both."""
    folder.mkdir()
    params = write_params(folder / "params.yaml", SIZES)
    for split in ("calibration", "test"):
        artifacts.write_table(folder / f"{split}.parquet", {"text": texts})
    asked = [
        {"question": text, "choices": tiny.WORDS[row : row + 4], "answer": row % 4, "split": split, "id": f"{split}{row}"}
        for split in ("validation", "test")
        for row, text in enumerate(texts[:8])
    ]
    artifacts.write_jsonl(folder / "mcq.jsonl", asked if questions else [])
    model, tokenizer = checkpoint.load_model(base, torch.float32), checkpoint.load_fast_tokenizer(base)
    ids = torch.tensor([tokenizer.encode(text).ids[:12] for text in texts])
    write_tensors(folder / "activation_stats.safetensors", profile(model, spec_for("llama"), ids, 8))
    write_counts(folder / "token_counts.parquet", tokenizer, count_tokens(tokenizer, texts))
    flags = ["--model", str(base), "--counts", str(folder / "token_counts.parquet"), "--out", str(folder / "child")]
    prune_embeddings.main([*flags, "--metrics", str(folder / "cut.json"), "--params", str(params)])
    generator = np.random.default_rng(len(texts))
    artifacts.write_table(folder / "child/pruned_neurons.parquet", {"kept": generator.random(3 * 77) < 0.5})
    metrics = {
        "base": measured(base, folder, base),
        "finetuned": measured(folder / "child", folder, base),
        "summary": {"size_reduction": 0.5},
        "finetune": {"tokens": 1024, "recovered_at_tokens": 512} if questions else {"tokens": 1024},
    }
    return Run(folder.name, folder, metrics)


def measured(model: Path, data: Path, base: Path) -> dict:
    """The evaluate stage's metrics of a checkpoint on a domain."""
    paths = {"model": model, "base": base, "validation": data / "test.parquet", "test": data / "test.parquet"}
    paths |= {
        "questions": data / "mcq.jsonl",
        "params": data / "params.yaml",
        "metrics": data / "measured.json",
        "replies": data / "replies.json",
    }
    evaluate.main([word for flag, path in paths.items() for word in (f"--{flag}", str(path))])
    return artifacts.read_json(data / "measured.json")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny.write_checkpoint(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, base) -> list[Run]:
    folder = tmp_path_factory.mktemp("domains")
    other = [f"Hair and nail and tooth {number}, the system user's assistant." for number in range(20)]
    return [make_domain(folder / "organs", base, tiny.sentences(40), True), make_domain(folder / "hair", base, other, False)]


def test_a_folder_of_folders_and_single_files_become_params(tmp_path):
    for name, files in {"law": ["text.jsonl.gz", "mcq.jsonl"], "it's, a=b": ["text.txt"], "empty": []}.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()
    found = domains.domains([str(tmp_path)])
    assert list(found) == ["it's, a=b", "law"]
    (tmp_path / "params.yaml").write_text("dataset: {source: null, questions: 1}\n")
    expected = {"law": ("text.jsonl.gz", str(tmp_path / "law/mcq.jsonl")), "it's, a=b": ("text.txt", None)}
    for name, (text, questions) in expected.items():
        apply_overrides(tmp_path / "params.yaml", found[name])
        section = yaml.safe_load((tmp_path / "params.yaml").read_text())["dataset"]
        assert section == {"source": str(tmp_path / name / text), "questions": questions}
    one = domains.domains([f"mine={tmp_path}/law/text.jsonl.gz,{tmp_path}/law/mcq.jsonl"])
    assert one == {"mine": found["law"]}
    assert [settings[0] for settings in domains.domains([]).values()] == ["dataset.domain=medical", "dataset.domain=embedded-legal"]


@pytest.mark.parametrize(
    ("word", "message"), [("nowhere", "no folder with a file text"), ("mine=gone.txt", "gone.txt: no such file")]
)
def test_data_that_is_not_there_is_refused(word, message):
    with pytest.raises(UserError, match=message):
        domains.domains([word])


def test_the_matrix_is_what_the_evaluate_stage_measures(runs, base):
    rows = {(row["domain"], row["evaluated_on"]): row for row in cross_domain.matrix(runs)}
    organs, hair = runs
    for run, other in ((organs, hair), (hair, organs), (hair, hair)):
        row, expected = rows[run.name, other.name], measured(run.folder / "child", other.folder, base)
        assert row["bits_per_byte"] == pytest.approx(expected["bits_per_byte"], rel=1e-6)
        assert row["acc"] == expected.get("acc")
        assert row["bits_per_byte_parent"] == other.metrics["base"]["bits_per_byte"]
        assert row["acc_parent"] == other.metrics["base"].get("acc")
    assert rows["hair", "organs"]["acc"] is not None and rows["organs", "hair"]["acc"] is None


def test_calibration_crosses_every_text_with_every_cut(runs, base):
    rows = cross_domain.calibration(runs, base, 0.5, 10**6, 10**6)
    keys = [(row["calibrated_on"], row["refit"], row["domain"]) for row in rows]
    assert sorted(keys) == sorted(
        {(one.name, refit, other.name) for one in runs for refit in ("none", "least_squares") for other in runs}
    )
    for run in runs:
        mine = {(row["calibrated_on"], row["refit"]): row for row in rows if row["domain"] == run.name}
        parent = run.metrics["base"]["perplexity"]
        assert [row["perplexity_parent"] for row in mine.values()] == pytest.approx([parent] * 4, rel=1e-5)
        assert len({row["perplexity"] for row in mine.values()}) == 4
        own, other = (mine[name, "least_squares"]["perplexity"] for name in (run.name, next(r.name for r in runs if r is not run)))
        assert own < other  # the refit fits the text it was made on
    organs = cross_domain.own_against_other(rows)[0]
    assert organs.startswith("organs, refit none: perplexity ") and " × " in organs


def test_jaccard_is_shared_over_either():
    one, other = np.array([1, 1, 1, 0, 0], dtype=bool), np.array([0, 1, 1, 1, 0], dtype=bool)
    assert cross_domain.jaccard([one, other, one]).tolist() == [[1, 0.5, 1], [0.5, 1, 0.5], [1, 0.5, 1]]


def test_collecting_writes_tables_and_pictures_and_keeps_other_domains(runs, base, tmp_path, monkeypatch, capsys):
    """The experiments stand in: one never finished, two lie in folders of the test's."""
    by_name = {f"domain-{run.name}": run for run in runs}

    def fetch(name: str, path: str, out: Path) -> None:
        kept = {"data/checkpoints/base": base, "data/checkpoints/finetuned": by_name[name].folder / "child"}
        source = kept.get(path, by_name[name].folder / Path(path).name)
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, out)

    monkeypatch.setattr(queue, "fetch", fetch)
    monkeypatch.setattr(queue, "metrics", lambda name, stems: {stem: by_name[name].metrics[stem] for stem in stems})
    monkeypatch.setattr(queue, "commit_of", lambda name: "1234" if name in by_name else "")
    monkeypatch.setattr(queue, "status", dict)
    (tmp_path / "texts.jsonl").write_text(json.dumps({"text": "a"}))
    out = tmp_path / "results"
    out.mkdir()
    (out / "domains.csv").write_text(f"{COLUMNS['domains']}\nlaw,0.5,2048,1,1,,,,,,\norgans,0.1,2048,1,1,,,,,,\n")
    data = [f"{name}={tmp_path}/texts.jsonl" for name in ("organs", "hair", "broken")]
    domains.main(["--data", *data, "--collect", "--out", str(out)])

    tables = {}
    for name, columns in COLUMNS.items():
        with (out / f"{name}.csv").open() as file:
            assert file.readline().strip() == columns
            tables[name] = list(csv.DictReader(file, columns.split(",")))
    assert [(row["domain"], row["size_reduction"], row["tuned_tokens"], row["recovery_tokens"]) for row in tables["domains"]] == [
        ("hair", "0.5", "1024", ""),
        ("law", "0.5", "2048", ""),
        ("organs", "0.5", "1024", "512"),
    ]
    assert len(tables["cross_domain"]) == 4 and len(tables["calibration_domains"]) == 8
    pictures = {path.name for path in out.glob("*.png")}
    assert pictures == {
        f"domains_{name}.png" for name in ("neuron_magnitudes", "token_frequencies", "overlap", "cross_domain", "calibration")
    }
    said = capsys.readouterr()
    assert "broken failed: no message" in said.err and "organs, refit least_squares: perplexity" in said.out


def test_where_nothing_finished_there_is_nothing_to_collect(tmp_path, monkeypatch):
    monkeypatch.setattr(queue, "commit_of", lambda name: "")
    monkeypatch.setattr(queue, "status", dict)
    with pytest.raises(UserError, match="no experiment came to its end"):
        domains.main(["--collect", "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())
