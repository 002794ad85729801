"""State belongs to one run, and a checkpoint counts only when it is whole."""

import shutil
from pathlib import Path

import pytest

import minigpts
from minigpts.training import resuming
from minigpts.training.recipe import Evaluation


def test_the_fingerprint_follows_params_names_and_bytes(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a").write_text("1")
    text = tmp_path / "text"
    text.write_text("2")

    def name(**params):
        return resuming.fingerprint(params, [folder, text])

    first = name(seed=0)
    assert name(seed=0) == first and name(seed=1) != first
    text.write_text("3")
    changed = name(seed=0)
    assert changed != first
    (folder / "a").rename(folder / "b")
    assert name(seed=0) not in (first, changed)


@pytest.mark.parametrize("room", ["model/packing.py", "evaluation/multiple_choice.py", "model/checkpoint.py", "model/device.py"])
def test_the_fingerprint_follows_all_code_that_decides_a_run(tmp_path, monkeypatch, room):
    package = tmp_path / "minigpts"
    shutil.copytree(Path(minigpts.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(minigpts, "__file__", str(package / "__init__.py"))
    before = resuming.fingerprint({}, [])
    assert resuming.fingerprint({}, []) == before
    with (package / room).open("a") as file:
        file.write("# other code\n")
    assert resuming.fingerprint({}, []) != before


def test_only_whole_checkpoints_count_and_completing_one_clears_what_it_replaces(tmp_path):
    curve = [Evaluation(0, 0, 2.0, None), Evaluation(9, 90, 0.1 + 0.2, 1.0)]
    assert resuming.newest_checkpoint(tmp_path) is None
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        resuming.best_weights(tmp_path, step).touch()
    assert resuming.newest_checkpoint(tmp_path) is None
    resuming.complete(tmp_path / "checkpoint-9", curve)
    assert resuming.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-9"
    assert resuming.read_curve(tmp_path / "checkpoint-9") == curve
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-9", "best-9.safetensors"}
    (tmp_path / "checkpoint-10").mkdir()
    assert resuming.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-9"
    resuming.complete(tmp_path / "checkpoint-10", [*curve, Evaluation(10, 100, 5.0, 1.0)])
    assert resuming.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-10", "best-9.safetensors"}
