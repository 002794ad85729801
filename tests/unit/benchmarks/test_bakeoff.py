"""The bake-off cuts what it says, scores what the pipeline would write, and makes no row twice."""

from __future__ import annotations

import copy
import csv

import pytest
import torch

from benchmarks.bakeoff import criteria
from minigpts import artifacts
from minigpts.errors import UserError
from minigpts.model import checkpoint
from minigpts.profiling.statistics import Statistics
from tests import tiny
from tests.e2e.project import write_params

COLUMNS = ["criterion", "refit", "allocation", "ratio", "seed", "tuned_tokens", "perplexity"]


@pytest.fixture(scope="module")
def flags(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("bakeoff")
    tiny.write_checkpoint(folder / "base", dtype=torch.bfloat16)
    for seed, name in enumerate(("calibration", "test", "train")):
        artifacts.write_table(folder / f"{name}.parquet", {"text": tiny.sentences(40, seed)})
    sizes = {"prune_neurons.sequence_length": 32, "finetune.batch_size": 2, "finetune.sequence_length": 32}
    write_params(folder / "params.yaml", {**sizes, "runtime.batch_tokens": 512, "runtime.num_threads": 1})
    paths = {name: folder / f"{name}.parquet" for name in ("calibration", "test", "train")}
    paths |= {"model": folder / "base", "params": folder / "params.yaml", "out": folder / "criteria.csv"}
    tokens = ["--calibration-tokens", "400", "--test-tokens", "300"]
    return [word for name, path in paths.items() for word in (f"--{name}", str(path))] + tokens


@pytest.fixture(scope="module")
def bakeoff(flags) -> criteria.BakeOff:
    arguments = criteria._parser().parse_args(flags)
    return criteria.BakeOff(arguments, criteria.Settings.read(arguments.params))


def test_rows_are_kept_sorted_and_not_made_again(flags, monkeypatch, capsys):
    asked = [*flags, "--criteria", "wanda", "paper", "--ratios", "0.4", "--seeds", "0", "--tuned-tokens", "64"]
    criteria.main([*asked, "--refit", "none"])
    criteria.main(asked)
    path = criteria._parser().parse_args(flags).out
    with path.open() as file:
        header, *rows = csv.reader(file)
    assert header == COLUMNS
    names = [("dense", "none"), ("paper", "none"), ("paper", "least_squares"), ("wanda", "none"), ("wanda", "least_squares")]
    assert [(*row[:2], row[5]) for row in rows] == [(*name, budget) for budget in ("0", "64") for name in names]
    assert all(float(row[-1]) > 1 for row in rows)
    monkeypatch.setattr(criteria.BakeOff, "child", None)
    before = path.read_bytes()
    criteria.main(asked)
    assert path.read_bytes() == before
    for other, change in (("calibration text", ["--calibration-tokens", "200"]), ("test text", ["--test-tokens", "99"])):
        with pytest.raises(UserError, match=f"its rows are of another {other}; give another --out"):
            criteria.main([*asked, *change])
    path.with_suffix(".json").unlink()
    with pytest.raises(UserError, match="nobody knows what its rows are of"):
        criteria.main(asked)
    assert "wanda + refit" in capsys.readouterr().out


@pytest.mark.parametrize("refit", criteria.REFITS)
def test_child_is_the_one_that_a_checkpoint_would_hold(bakeoff, refit, tmp_path):
    row = criteria.Row("wanda", refit, "uniform", 0.4, 0, 0)
    child = bakeoff.child(row)
    assert child.config.intermediate_size == 46  # of 77, and at least 40 % go
    config, weights = copy.deepcopy(child.config), checkpoint.weights_of(child, torch.bfloat16)
    config.dtype = torch.bfloat16
    with checkpoint.saving(tmp_path / "child", config, weights.items(), companions=bakeoff.folder):
        pass
    tokens = bakeoff.calibration_sequences()[:2]
    with torch.inference_mode():
        assert torch.equal(checkpoint.load_model(tmp_path / "child", torch.float32)(tokens).logits, child(tokens).logits)


def test_the_papers_widths_are_those_of_one_threshold(bakeoff):
    bakeoff.calibrate(0, gradients=False)
    statistics = Statistics(bakeoff.sums)
    widths = criteria.kept_widths(statistics, 0.5, "per_layer")
    means = statistics.mean_abs_by_layer()
    threshold = torch.cat(means).sort().values[115]  # the 116th of 231 neurons
    assert widths == [int((mean > threshold).sum()) for mean in means]
    assert sum(widths) == 231 - 116


def test_seeds_pick_other_documents(bakeoff):
    texts = bakeoff.calibration
    draws = [criteria.drawn(bakeoff.tokenizer, texts, seed, 200) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert len(draws[0]) < len(texts)
    assert sorted(criteria.drawn(bakeoff.tokenizer, texts, 0, 10**9)) == sorted(texts)


def test_missing_peers_are_named(flags, monkeypatch):
    monkeypatch.setattr("benchmarks.bakeoff.peers.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '.\[peers\]'"):
        criteria.main([*flags, "--peers"])
