"""The stage tunes, stops as told, says what happened, and gives the same bytes whether it was killed on the way or not."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from minigpts import artifacts
from minigpts.errors import UserError
from minigpts.evaluation import language_modeling, multiple_choice
from minigpts.model import checkpoint
from minigpts.model.chat_template import ChatTemplate
from minigpts.model.weights import WEIGHTS, StoredWeights, write_tensors
from stages import finetune, tune_parent
from tests import tiny
from tests.unit.stages.finetune_killed import arguments

RECIPE = {
    "learning_rate": 3e-3,
    "weight_decay": 0.01,
    "warmup_share": 0.1,
    "batch_size": 4,
    "sequence_length": 24,
    "max_tokens": 1400,  # 14 steps
    "max_epochs": 200,
    "stop": "budget",
    "patience": 1,
    "evaluations": 3,  # after steps 5, 9 and 14
    "seed": 0,
    "distillation": 0.0,
    "teacher": "base",
    "freeze_embeddings": False,
    "lora_rank": 0,
    "general": None,
    "general_share": 0.0,
}


def _prepare(folder: Path, family: str = "llama", parent: float = 1.0, sentences: int = 40, **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    dropout = {"dropout": 0.1} if family == "opt" else {}
    tiny.write_checkpoint(folder / "pruned", family, dtype=torch.bfloat16, num_hidden_layers=2, **dropout)
    artifacts.write_table(folder / "pruned" / "neurons.parquet", {"layer": [0], "neuron": [3]})
    artifacts.write_table(folder / "train.parquet", {"text": tiny.sentences(sentences) or [""]})
    artifacts.write_table(folder / "validation.parquet", {"text": tiny.sentences(6, seed=5)})
    for name in ("general", "written"):
        artifacts.write_table(folder / f"{name}.parquet", {"text": []})
    artifacts.write_jsonl(folder / "mcq.jsonl", _questions())
    artifacts.write_json(folder / "base.json", {"validation_bits_per_byte": parent, "validation_acc_norm": 0.75})
    document = {
        "finetune": {**RECIPE, **changes},
        "evaluate": {"sequence_length": 64, "chat": False},
        "runtime": {"batch_tokens": 48, "num_threads": 1, "launcher": None},  # two gradient accumulation steps
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(document))
    return folder


def _questions() -> list[dict]:
    organs = tiny.WORDS[:4]
    return [
        {"question": f"Where is {word}?", "choices": organs, "answer": index % 4, "split": split}
        for split in ("validation", "test")
        for index, word in enumerate(tiny.WORDS)
    ]


def _run(folder: Path) -> tuple[dict, list[dict]]:
    finetune.main(arguments(folder))
    return artifacts.read_json(folder / "out/finetune.json"), artifacts.read_csv(folder / "out/recovery.csv")


KILL_POINTS = {  # -> the steps the second run has left to take
    "transformers:Trainer.training_step:5": 14,  # before anything is saved (two calls a step)
    "transformers:Trainer.training_step:14": 9,  # after the save at step 5
    "transformers:Trainer._save_rng_state:2": 9,  # within the save at step 9: weights and moments there, the rest not
    "minigpts.training.resuming:complete:2": 9,  # after that save, before it is declared whole
    "shutil:rmtree:1": 5,  # after that, before the older one is gone
    "minigpts.evaluation.language_modeling:score:1": 14,  # in the evaluation before the first step
    "minigpts.evaluation.language_modeling:score:3": 9,  # in the one at step 9
    "safetensors.torch:save_file:3": 9,  # while the best weights of step 9 are kept aside
    "minigpts.model.checkpoint:saving:1": 0,  # at the end
    "minigpts.artifacts:write_json:1": 0,  # when all but the metrics is written
    "shutil:rmtree:3": 14,  # when all is written and the state is being removed
}


def test_killed_and_run_again_equals_the_uninterrupted_run_to_the_bit(tmp_path):
    folder = _prepare(tmp_path, "opt")  # its dropout draws from the random number generator, which must be restored too
    command = [sys.executable, "-m", "tests.unit.stages.finetune_killed", str(folder), "", *KILL_POINTS]
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert ran.returncode == 0, ran.stderr
    results = json.loads(ran.stdout.splitlines()[-1])
    in_peace = results.pop("")
    assert in_peace["steps"] == 2 * 14
    for kill_point, left in KILL_POINTS.items():
        expected = {"outs": in_peace["outs"], "steps": 2 * left, "killed": True, "scratch_is_gone": True}
        assert results[kill_point] == expected, kill_point


KILL_POINTS_WITH_ALL = {
    "transformers:Trainer.training_step:14": 9,  # after the save at step 5
    "minigpts.training.resuming:complete:2": 9,  # after the save at step 9, before it is declared whole
    "minigpts.model.checkpoint:saving:1": 0,  # at the end
}


def _with_all(folder: Path, general: str = "text", **changes: object) -> Path:
    """Distillation from a teacher of more tokens, adapters and general text, all at once."""
    _prepare(folder, **{"distillation": 0.5, "lora_rank": 3, "general": general, "general_share": 0.25, **changes})
    teacher = tiny.write_checkpoint(folder / "teacher", seed=1, dtype=torch.bfloat16, hidden_size=48)
    size = checkpoint.load_config(teacher).vocab_size
    artifacts.write_table(folder / "pruned/pruned_tokens.parquet", {"new_id": list(range(size))})
    texts = [f"Once upon a time there were {count} cats." for count in range(30)]
    artifacts.write_table(folder / "general.parquet", {"text": texts})
    artifacts.write_table(folder / "written.parquet", {"text": texts, "loss_spans": [[[12, len(text)]] for text in texts]})
    return folder


@pytest.mark.parametrize("general", ["text", "parent"])
def test_a_teacher_adapters_and_general_text_resume_to_the_bit_too(tmp_path, general):
    folder = _with_all(tmp_path, general)
    command = [sys.executable, "-m", "tests.unit.stages.finetune_killed", str(folder), "", *KILL_POINTS_WITH_ALL]
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert ran.returncode == 0, ran.stderr
    results = json.loads(ran.stdout.splitlines()[-1])
    in_peace = results.pop("")
    for kill_point, left in KILL_POINTS_WITH_ALL.items():
        expected = {"outs": in_peace["outs"], "steps": 2 * left, "killed": True, "scratch_is_gone": True}
        assert results[kill_point] == expected, kill_point


RUINOUS = "minigpts.training.probe:START=40", "minigpts.training.probe:MOST=2"
IN_THE_SECOND_TRIAL = {"transformers:Trainer.training_step:11": 4 + 14}  # of four steps each, two calls a step
FALLING = {"minigpts.training.lora:restore:1": 14}  # at step 5, since the rate that was found is still ruinous
AFTER_THE_FALL = {"transformers:Trainer.training_step:29": 9}


@pytest.mark.parametrize(("rank", "points"), [(0, {**IN_THE_SECOND_TRIAL, **FALLING, **AFTER_THE_FALL}), (3, AFTER_THE_FALL)])
def test_killed_in_trials_and_after_a_fall_it_resumes_to_the_bit(tmp_path, rank, points):
    folder = _prepare(tmp_path, learning_rate=None, lora_rank=rank)
    command = [sys.executable, "-m", "tests.unit.stages.finetune_killed", str(folder), *RUINOUS, "", *points]
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert ran.returncode == 0, ran.stderr
    assert artifacts.read_json(folder / "out/finetune.json")["learning_rate_falls"] >= (rank == 0)  # adapters bear it
    results = json.loads(ran.stdout.splitlines()[-1])
    in_peace = results.pop("")
    assert in_peace["steps"] == 2 * (2 * 4 + 14)
    for kill_point, left in points.items():
        expected = {"outs": in_peace["outs"], "steps": 2 * left, "killed": True, "scratch_is_gone": True}
        assert results[kill_point] == expected, kill_point


def test_a_rate_is_found_and_the_run_is_that_of_the_user_who_gives_it(tmp_path, monkeypatch):
    monkeypatch.setattr("minigpts.training.probe.MOST", 3)
    metrics, _ = _run(_prepare(tmp_path / "found", learning_rate=None))
    tried = metrics.pop("learning_rates_tried")
    rate = metrics["learning_rate"]
    assert len(tried) == 4 and metrics["learning_rate_falls"] == 0
    assert min(map(float, tried)) <= rate <= max(map(float, tried))
    monkeypatch.setattr("minigpts.training.probe.find_rate", None)  # not called
    given, _ = _run(_prepare(tmp_path / "given", learning_rate=rate))
    assert given.pop("learning_rates_tried") == {} and given == metrics
    weights = [(tmp_path / name / "out/finetuned" / checkpoint.WEIGHTS).read_bytes() for name in ("found", "given")]
    assert weights[0] == weights[1]


def test_a_users_own_rate_is_held_even_where_it_ruins(tmp_path, capsys):
    metrics, _ = _run(_prepare(tmp_path, learning_rate=1.0, warmup_share=0.0))
    assert metrics["learning_rate"] == 1.0 and metrics["learning_rate_falls"] == 0 and metrics["best_step"] == 0
    assert "warning: tuning did harm: validation bits per byte rose by" in capsys.readouterr().err


def test_what_adapters_learnt_is_saved_as_plain_weights(tmp_path):
    folder = _with_all(tmp_path)
    metrics, _ = _run(folder)
    before, after = (StoredWeights(folder / name) for name in ("pruned", "out/finetuned"))
    assert metrics["best_step"] > 0 and before.shapes == after.shapes
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {name for name in after if "proj" in name}
    model = AutoModelForCausalLM.from_pretrained(folder / "out/finetuned", dtype=torch.float32)
    tokenizer = checkpoint.load_fast_tokenizer(folder / "pruned")
    texts = artifacts.read_table(folder / "validation.parquet", ["text"])["text"]
    score = language_modeling.score(model, tokenizer, texts, sequence_length=64, batch_tokens=64)
    assert score.bits_per_byte == pytest.approx(metrics["validation_bits_per_byte_best"], rel=5e-3)


def test_on_what_the_parent_wrote_the_parent_is_the_teacher_and_nowhere_else(tmp_path):
    def tuned(name: str, **changes: object) -> bytes:
        folder = _with_all(tmp_path / name, **{"lora_rank": 0, "distillation": 0.0, **changes})
        _run(folder)
        return (folder / "out/finetuned" / WEIGHTS).read_bytes()

    assert len({tuned("text"), tuned("parent", general="parent"), tuned("both", general="parent", distillation=0.5)}) == 3


def test_a_rate_is_found_with_general_text_that_the_parent_wrote(tmp_path, monkeypatch):
    monkeypatch.setattr("minigpts.training.probe.MOST", 2)
    metrics, _ = _run(_with_all(tmp_path, "parent", learning_rate=None, lora_rank=0))
    assert len(metrics["learning_rates_tried"]) == 3 and metrics["best_step"] > 0


def test_the_parent_is_tuned_by_the_same_recipe_with_itself_as_the_teacher(tmp_path):
    """As a child that lost nothing is."""
    weights = []
    for name, stage in (("child", finetune), ("parent", tune_parent)):
        folder = _with_all(tmp_path / name, "parent", distillation=0.0, lora_rank=0)
        document = yaml.safe_load((folder / "params.yaml").read_text())
        (folder / "params.yaml").write_text(yaml.safe_dump({**document, "tune_parent": True}))
        given = arguments(folder)
        place = given.index("--teacher")
        given[place : place + 2] = ["--teacher", str(folder / "pruned")] if stage is finetune else []
        stage.main(given)
        weights.append((folder / "out/finetuned" / WEIGHTS).read_bytes())
    assert weights[0] == weights[1] != (folder / "pruned" / WEIGHTS).read_bytes()


def test_without_a_teacher_nothing_is_distilled_and_without_questions_bits_per_byte_alone_decide(tmp_path):
    def run(name: str, *flags: str, **changes: object) -> tuple[dict, bytes]:
        folder = _prepare(tmp_path / name, **changes)
        given = arguments(folder)
        for flag in flags:
            place = given.index(flag)
            del given[place : place + 2]
        finetune.main(given)
        weights = (folder / "out/finetuned" / WEIGHTS).read_bytes()
        return artifacts.read_json(folder / "out/finetune.json"), weights

    metrics, weights = run("plain", "--teacher", "--questions")
    assert metrics["validation_acc_norm_best"] is None and not metrics["answers_lost"]
    assert run("ignored", "--teacher", "--questions", distillation=0.5) == (metrics, weights)


def test_answers_are_watched_and_losing_them_is_said(tmp_path, capsys):
    folder = _prepare(tmp_path, learning_rate=1.0, warmup_share=0.0)
    metrics, curve = _run(folder)
    assert all(0 <= float(row["validation_acc_norm"]) <= 1 for row in curve)
    assert {row["parent_validation_acc_norm"] for row in curve} == {"0.75"} and curve[0]["parent_validation_acc"] == ""
    assert metrics["validation_acc_norm_before"] == float(curve[0]["validation_acc_norm"])
    assert metrics["validation_acc_last"] == float(curve[-1]["validation_acc"])
    assert metrics["overfitting"] is True and metrics["best_step"] == 0
    said = capsys.readouterr().err
    assert "warning: overfitting: validation bits per byte end" in said and "the weights of step 0 are kept" in said
    assert ("warning: answers lost" in said) == metrics["answers_lost"]


def test_questions_are_watched_through_the_chat_template_where_that_is_set(tmp_path):
    folder = _prepare(tmp_path)
    (folder / "params.yaml").write_text((folder / "params.yaml").read_text().replace("chat: false", "chat: true"))
    pruned = folder / "pruned"
    (pruned / "chat_template.jinja").write_text("{{ messages[0].content }} The nerve near the brain and the ")
    questions = [question for question in _questions() if question["split"] == "validation"]
    model, tokenizer = checkpoint.load_model(pruned, torch.float32), checkpoint.load_fast_tokenizer(pruned)
    asked, plain = (
        multiple_choice.accuracy(questions, multiple_choice.score(model, tokenizer, questions, batch_tokens=48, template=template))
        for template in (ChatTemplate.of(pruned), None)
    )
    assert asked["acc_norm"] != plain["acc_norm"]
    assert float(_run(folder)[1][0]["validation_acc_norm"]) == pytest.approx(asked["acc_norm"])
    (pruned / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match=r"evaluate\.chat is true, but \S*pruned has no chat template"):
        _run(folder)


def test_the_budget_is_run_and_the_best_is_saved(tmp_path):
    folder = _prepare(tmp_path)
    metrics, curve = _run(folder)
    scores = [float(row["validation_bits_per_byte"]) for row in curve]
    assert [row["step"] for row in curve] == ["0", "5", "9", "14"]
    assert [row["tokens"] for row in curve] == ["0", "480", "864", "1344"]
    assert curve[0]["train_loss"] == "" and 0 < metrics["train_loss"] == float(curve[-1]["train_loss"]) < float(
        curve[1]["train_loss"]
    )
    assert metrics["stop_reason"] == "budget" and metrics["steps"] == 14 and metrics["tokens"] == 1344
    assert metrics["validation_bits_per_byte_before"] == scores[0]
    assert metrics["validation_bits_per_byte_best"] == min(scores) < scores[0]
    assert metrics["best_step"] == int(curve[scores.index(min(scores))]["step"])
    assert metrics["recovered"] is False and metrics["recovered_at_step"] is None and metrics["recovered_at_tokens"] is None
    assert not (folder / "scratch").exists()

    out = folder / "out/finetuned"
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in (folder / "pruned").iterdir())
    for name in ("config.json", "tokenizer.json", "neurons.parquet"):
        assert (out / name).read_bytes() == (folder / "pruned" / name).read_bytes()
    assert StoredWeights(out).dtype == torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    texts = artifacts.read_table(folder / "validation.parquet", ["text"])["text"]
    score = language_modeling.score(model, checkpoint.load_fast_tokenizer(out), texts, sequence_length=64, batch_tokens=64)
    assert score.bits_per_byte == pytest.approx(min(scores), rel=5e-3)  # the weights are stored in bfloat16


def test_recovered_stops_at_the_parents_bits_per_byte(tmp_path):
    _, curve = _run(_prepare(tmp_path / "whole"))
    before, first = (float(row["validation_bits_per_byte"]) for row in curve[:2])
    metrics, curve = _run(_prepare(tmp_path / "stopped", parent=(before + first) / 2, stop="recovered"))
    assert metrics["stop_reason"] == "recovered" and metrics["recovered"] is True
    assert metrics["steps"] == metrics["recovered_at_step"] == metrics["best_step"] == 5
    assert metrics["recovered_at_tokens"] == 480 and len(curve) == 2


def test_a_child_that_needs_no_recovery_is_saved_as_it_is(tmp_path):
    folder = _prepare(tmp_path, parent=99.0, stop="recovered")
    metrics, _ = _run(folder)
    assert metrics["recovered_at_step"] == metrics["steps"] == 0 and metrics["train_loss"] is None
    assert (folder / "out/finetuned" / WEIGHTS).read_bytes() == (folder / "pruned" / WEIGHTS).read_bytes()


def test_plateau_stops_after_patience_and_keeps_the_best(tmp_path):
    folder = _prepare(tmp_path, stop="plateau", patience=2, learning_rate=1.0, warmup_share=0.0)
    metrics, curve = _run(folder)
    assert metrics["stop_reason"] == "plateau" and metrics["best_step"] == 0 and len(curve) == 3
    assert metrics["overfitting_bits_per_byte"] > 0
    assert (folder / "out/finetuned" / WEIGHTS).read_bytes() == (folder / "pruned" / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 1e30}, "learning_rate"),
        ({"sentences": 0}, "there is no text to train on"),
        (
            {"general": "text", "general_share": 0.5},
            "finetune.general is text, but there is no such text; set dataset.general_text",
        ),
        ({"general": "parent", "general_share": 0.5}, "finetune.general is parent, but .* set write_general.tokens"),
        ({"sentences": 3, "batch_size": 40, "max_tokens": 40 * 24, "max_epochs": 2}, "one step of 960 within 2 epochs"),
        ({"max_tokens": 95}, "finetune.max_tokens must be ≥ batch_size × sequence_length = 96"),
        ({"learning_rate": 0}, "finetune.learning_rate must be > 0"),
        ({"warmup_share": 1.0}, "finetune.warmup_share"),
        ({"evaluations": 0}, "finetune.evaluations"),
        ({"stop": "never"}, "finetune.stop must be one of recovered, plateau, budget"),
    ],
)
def test_what_cannot_work_is_said_in_one_line_and_earlier_outs_stay(tmp_path, changes, message):
    folder = _prepare(tmp_path, **changes)
    (folder / "out").mkdir()
    (folder / "out/finetune.json").write_text("earlier")
    with pytest.raises(UserError, match=message) as caught:
        _run(folder)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (folder / "out").iterdir()] == ["finetune.json"]
    assert (folder / "out/finetune.json").read_text() == "earlier"


def test_what_memory_cannot_hold_is_refused_before_any_text_is_read(tmp_path, monkeypatch):
    folder = _prepare(tmp_path)
    (folder / "train.parquet").unlink()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=500_000))
    with pytest.raises(UserError, match=r"^tuning 0 M of 0 M weights needs .* finetune\.lora_rank fits in 0\.0 GB"):
        _run(folder)


def test_a_damaged_checkpoint_is_not_blamed_on_the_rate(tmp_path):
    folder = _prepare(tmp_path)
    weights = dict(StoredWeights(folder / "pruned"))
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], float("nan"))
    write_tensors(folder / "pruned" / WEIGHTS, weights, {"format": "pt"})
    with pytest.raises(UserError, match="at step 0; the checkpoint is damaged"):
        _run(folder)


def test_a_parent_without_its_figure_is_refused(tmp_path):
    folder = _prepare(tmp_path)
    artifacts.write_json(folder / "base.json", {})
    with pytest.raises(UserError, match=r"base.json: no validation_bits_per_byte"):
        _run(folder)
