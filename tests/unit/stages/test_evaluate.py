"""The stage on tiny checkpoints: one schema, equal runs write equal bytes, bad input is one line."""

import json
import math
import shutil
from functools import partial
from types import SimpleNamespace

import psutil
import pytest
import torch
import yaml

from minigpts import artifacts
from minigpts.errors import UserError
from minigpts.evaluation import language_modeling, multiple_choice
from minigpts.model import checkpoint
from minigpts.model.chat_template import ChatTemplate
from minigpts.model.weights import WEIGHTS, StoredWeights, write_tensors
from stages import evaluate
from tests import tiny

KEYS = {
    "computed_on",
    *("acc", "acc_norm", "acc_stderr", "acc_norm_stderr", "validation_acc", "validation_acc_norm"),
    *("num_questions", "num_validation_questions", "bits_per_byte", "validation_bits_per_byte", "perplexity"),
    *("test_bytes", "test_tokens", "test_base_tokens", "vocab_size", "relative_size"),
    *("num_parameters", "num_nonzero_parameters", "checkpoint_bytes", "speech"),
}
TEST_TEXTS = tiny.sentences(12)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    tiny.write_checkpoint(folder / "base")
    tiny.write_checkpoint(folder / "smaller", seed=1, intermediate_size=40)
    artifacts.write_table(folder / "test.parquet", {"text": TEST_TEXTS})
    artifacts.write_table(folder / "validation.parquet", {"text": tiny.sentences(7, seed=3)})
    questions = [
        {
            "question": text,
            "choices": ["heart", "lung", "nail", "brain bone"],
            "answer": row % 4,
            "split": "test" if row < 9 else "validation",
        }
        for row, text in enumerate(tiny.sentences(12, seed=5))
    ]
    artifacts.write_jsonl(folder / "mcq.jsonl", questions)
    write_params(folder)
    return folder


def write_params(folder, sequence_length=64, batch_tokens=400, tokens=6, chat=False):
    sections = {
        "evaluate": {"sequence_length": sequence_length, "chat": chat},
        "speech": {"tokens": tokens},
        "runtime": {"batch_tokens": batch_tokens, "num_threads": None, "launcher": None},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(sections))
    return folder / "params.yaml"


def run(folder, model="smaller", out="metrics.json", **changes):
    paths = {
        "model": folder / model,
        "base": folder / "base",
        "validation": folder / "validation.parquet",
        "test": folder / "test.parquet",
        "questions": folder / "mcq.jsonl",
        "metrics": folder / out,
        "replies": folder / f"replies_{out}",
        "params": folder / "params.yaml",
    }
    evaluate.main([word for name, path in {**paths, **changes}.items() for word in (f"--{name}", str(path))])
    return artifacts.read_json(folder / out)


def test_metrics_are_those_of_the_checkpoint(inputs):
    metrics = run(inputs)
    assert set(metrics) == KEYS
    model, tokenizer = checkpoint.load_model(inputs / "smaller", torch.float32), checkpoint.load_fast_tokenizer(inputs / "smaller")
    text = language_modeling.score(model, tokenizer, TEST_TEXTS, sequence_length=64, batch_tokens=400)
    assert metrics["bits_per_byte"] == pytest.approx(text.bits_per_byte, rel=1e-6)
    assert metrics["perplexity"] == pytest.approx(math.exp(text.nats / text.tokens), rel=1e-6)  # the tokenizers are equal here
    assert (metrics["num_questions"], metrics["num_validation_questions"]) == (9, 3)
    base = checkpoint.load_model(inputs / "base", torch.float32)
    assert metrics["relative_size"] == pytest.approx(model.num_parameters() / base.num_parameters())


def test_base_has_the_same_schema_and_is_its_own_measure(inputs):
    metrics = run(inputs, model="base", out="base.json")
    assert set(metrics) == KEYS
    assert metrics["relative_size"] == 1.0


def test_perplexity_is_per_token_of_the_base_tokenizer(inputs, tmp_path):
    coarse = tmp_path / "coarse"  # the same model behind a tokenizer that cuts finer
    shutil.copytree(inputs / "smaller", coarse)
    settings = json.loads((coarse / "tokenizer.json").read_text())
    settings["model"]["merges"] = settings["model"]["merges"][:60]
    (coarse / "tokenizer.json").write_text(json.dumps(settings))
    metrics = run(inputs, model=coarse)
    assert metrics["test_tokens"] > metrics["test_base_tokens"]
    nats = metrics["bits_per_byte"] * math.log(2) * metrics["test_bytes"]
    assert metrics["perplexity"] == pytest.approx(math.exp(nats / metrics["test_base_tokens"]), rel=1e-5)


def test_the_same_input_gives_the_same_bytes_and_other_batches_the_same_metrics(inputs, tmp_path):
    first, second = run(inputs, out="a.json"), run(inputs, out="b.json")
    for name in ("{}.json", "replies_{}.json"):
        assert (inputs / name.format("a")).read_bytes() == (inputs / name.format("b")).read_bytes()
    params = write_params(tmp_path, batch_tokens=70)
    third = run(inputs, out="c.json", params=params)
    assert third.pop("computed_on") == second.pop("computed_on") == first.pop("computed_on")
    assert third.pop("speech") == second.pop("speech") == first.pop("speech")
    assert third == pytest.approx(second, rel=1e-5)
    assert first == second


def test_of_chats_tuning_watches_what_the_assistant_says_and_the_test_scores_both(inputs, tmp_path):
    spans = [[(5, len(text) - 3)] if row % 3 else None for row, text in enumerate(TEST_TEXTS)]
    artifacts.write_table(tmp_path / "chats.parquet", {"text": TEST_TEXTS, "loss_spans": spans})
    plain, chats = run(inputs), run(inputs, test=tmp_path / "chats.parquet", validation=tmp_path / "chats.parquet")
    assert chats["bits_per_byte"] == plain["bits_per_byte"] and set(chats) == KEYS | {"assistant_bits_per_byte"}
    model, tokenizer = checkpoint.load_model(inputs / "smaller", torch.float32), checkpoint.load_fast_tokenizer(inputs / "smaller")
    score = partial(language_modeling.score, model, tokenizer, TEST_TEXTS, sequence_length=64, batch_tokens=400)
    assert chats["validation_bits_per_byte"] == pytest.approx(score(spans=spans).span_bits_per_byte, rel=1e-6)
    said = score(spans=[those or [] for those in spans])
    assert chats["assistant_bits_per_byte"] == pytest.approx(said.span_bits_per_byte, rel=1e-6) and said.span_bytes < said.bytes


def test_no_questions_leave_only_their_count(inputs, tmp_path):
    artifacts.write_jsonl(tmp_path / "none.jsonl", [])
    metrics = run(inputs, questions=tmp_path / "none.jsonl")
    assert set(metrics) == {key for key in KEYS if "acc" not in key}
    assert metrics["num_questions"] == metrics["num_validation_questions"] == 0


def test_speech_is_measured_unless_it_is_switched_off(inputs, tmp_path):
    speech = run(inputs)["speech"]
    replies = artifacts.read_json(inputs / "replies_metrics.json")
    assert {name: len(found) for name, found in replies.items()} == {"domain": 24, "general": 30, "sampled": 27, "instructions": 36}
    assert speech["instructions"] == pytest.approx(sum(reply["kept"] for reply in replies["instructions"]) / 36)
    for asked in ("domain", "general", "sampled"):
        assert speech[asked]["empty_rate"] == pytest.approx(sum(reply["empty"] for reply in replies[asked]) / len(replies[asked]))
    without = run(inputs, out="silent.json", params=write_params(tmp_path, tokens=0))
    assert set(without) == KEYS - {"speech"}
    assert artifacts.read_json(inputs / "replies_silent.json") == {}


def test_questions_are_asked_through_the_chat_template_where_that_is_set(inputs, tmp_path):
    plain, asked = run(inputs), run(inputs, out="chat.json", params=write_params(tmp_path, chat=True))
    accuracies = {key for key in KEYS if "acc" in key}
    assert {key: value for key, value in asked.items() if key not in accuracies} == {
        key: value for key, value in plain.items() if key not in accuracies
    }
    model, tokenizer = checkpoint.load_model(inputs / "smaller", torch.float32), checkpoint.load_fast_tokenizer(inputs / "smaller")
    questions = [row for row in artifacts.read_jsonl(inputs / "mcq.jsonl") if row["split"] == "test"]
    template = ChatTemplate.of(inputs / "smaller")
    scores = multiple_choice.score(model, tokenizer, questions, batch_tokens=400, template=template)
    expected = multiple_choice.accuracy(questions, scores)
    assert {name: asked[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("model", ["base", "smaller"])
def test_a_model_without_a_chat_template_cannot_be_asked_through_it(inputs, tmp_path, model):
    silent = tmp_path / model
    shutil.copytree(inputs / model, silent)
    (silent / "chat_template.jinja").unlink()
    with pytest.raises(
        UserError, match=rf"^params\.yaml: evaluate\.chat is true, but \S*/{model} has no chat template; set it to false$"
    ):
        run(inputs, model=silent, params=write_params(tmp_path, chat=True))


def test_where_the_model_cannot_be_held_all_but_speech_is_measured(inputs, tmp_path, monkeypatch):
    everything = run(inputs)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1))
    with pytest.raises(
        UserError, match=r"^speaking needs at least .* GB of memory, and 0\.0 GB are free; set speech\.tokens to 0$"
    ):
        run(inputs)
    silent = run(inputs, params=write_params(tmp_path, tokens=0))
    assert silent == {name: value for name, value in everything.items() if name != "speech"}


def test_bad_input_is_one_line_and_leaves_earlier_metrics(inputs, tmp_path):
    before = run(inputs)
    with pytest.raises(UserError, match=r"evaluate.sequence_length must be ≥ 1, got 0"):
        run(inputs, params=write_params(tmp_path, sequence_length=0))
    with pytest.raises(UserError, match=r"speech.tokens must be ≥ 0, got -1"):
        run(inputs, params=write_params(tmp_path, tokens=-1))
    artifacts.write_table(tmp_path / "empty.parquet", {"text": [""]})
    with pytest.raises(UserError, match="no text to score"):
        run(inputs, test=tmp_path / "empty.parquet")
    with pytest.raises(UserError, match=r"gone.parquet: no such file"):
        run(inputs, validation=tmp_path / "gone.parquet")
    damaged = tmp_path / "damaged"
    shutil.copytree(inputs / "smaller", damaged)
    weights = dict(StoredWeights(damaged))
    weights["model.layers.1.mlp.down_proj.weight"][3, 5] = float("nan")
    write_tensors(damaged / WEIGHTS, weights, {"format": "pt"})
    with pytest.raises(UserError, match="its weights are damaged"):
        run(inputs, model=damaged)
    assert artifacts.read_json(inputs / "metrics.json") == before
