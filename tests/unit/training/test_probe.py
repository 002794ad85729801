"""Trials lead to the best rate, relative to the weights, and the same one every time."""

import math
from dataclasses import replace

import pytest

from minigpts.model import checkpoint, packing
from minigpts.params import Runtime
from minigpts.training import probe, resuming
from minigpts.training.data import draw_sequences
from minigpts.training.recipe import Parent
from minigpts.training.trainer import Validation
from tests import tiny
from tests.unit.training.test_trainer import RECIPE

TEXTS = tiny.sentences(6, seed=5)


def _search(first, score):
    tried = {}
    for rate in probe.rates_to_try(first, tried):
        tried[rate] = score(rate)
    return tried


# Bits per byte after a few steps, by rate, as measured (docs/experiments/second_parent.md), and the rate that suits a whole run.
MEASURED = {
    "SmolLM2, 42 % smaller": ({0.0: 1.1725, 1e-4: 1.0555, 2e-4: 1.0176, 4e-4: 1.0469}, 2e-4),
    "SmolLM2, 12 % smaller": ({0.0: 1.0803, 9.5e-5: 0.9723, 1.9e-4: 0.9230, 3.8e-4: 0.8945, 7.6e-4: 0.9064}, 1.9e-4),
    "… dialogues among its text": ({0.0: 1.0771, 9.5e-5: 0.9780, 1.9e-4: 0.9343, 3.8e-4: 0.9017, 7.6e-4: 0.9030}, 1.9e-4),
    "… and general text": ({0.0: 1.0771, 9.5e-5: 0.9918, 1.9e-4: 0.9454, 3.8e-4: 0.9032, 7.6e-4: 0.9044}, 1.9e-4),
    "Gemma, 58 % smaller": ({0.0: 0.9038, 1e-5: 0.8713, 2e-5: 0.8615, 4e-5: 0.8651, 8e-5: 0.8949}, 2e-5),
}


@pytest.mark.parametrize("child", MEASURED)
def test_the_rate_of_a_few_steps_is_not_taken_for_many(child):
    tried, rate = MEASURED[child]
    assert rate / 1.65 < probe.best_rate(tried) < rate * 1.35
    assert list(probe.rates_to_try(rate, tried)) == []


def test_a_rate_between_two_trials_is_taken_by_their_gains():
    tried = {0.0: 2.0, 1e-4: 1.6, 4e-4: 1.0, 1.6e-3: 1.2}  # gains of 0.4, 1 and 0.8
    assert probe.best_rate(tried) == float(f"{1e-4 * 4 ** ((probe.NEARLY - 0.4) / 0.6):.1e}")
    assert probe.best_rate(tried | {1e-4: math.inf}) == 4e-4
    assert probe.best_rate({0.0: 2.0, 1e-4: 1.0, 4e-4: 1.0}) == 1e-4


def test_the_search_ends_between_rates_that_gain_less():
    tried = _search(2e-4, lambda rate: 2.0 if rate == 0 else 1 + math.log(rate / 6e-4) ** 2 / 3)
    taken, lowest = probe.best_rate(tried), min(tried, key=tried.get)
    assert lowest == pytest.approx(8e-4) and 2e-4 < taken <= 4e-4
    assert {2e-4, lowest * 2} <= tried.keys()


def test_a_rate_that_ruins_is_worse_than_any_and_the_search_always_ends():
    tried = _search(1e-3, lambda rate: 2.0 if rate == 0 else math.inf if rate > 4e-4 else 1 + math.log(rate / 2e-4) ** 2)
    assert probe.best_rate(tried) == 1.4e-4  # 1.25e-4 gains 0.78 and 2.5e-4 0.95, of which 0.81 is wanted
    for score in (lambda rate: rate, lambda rate: -rate):  # the lower the better, the higher the better
        tried = _search(1e-3, score)
        assert len(tried) == probe.MOST + 1
    assert probe.best_rate(_search(1e-3, lambda rate: rate)) == min(set(_search(1e-3, lambda rate: rate)) - {0.0})


def test_the_first_rate_is_relative_to_the_weights(tmp_path):
    weights = checkpoint.StoredWeights(tiny.write_checkpoint(tmp_path / "model"))
    assert probe.starting_rate(weights, "model.layers") == pytest.approx(0.15 * probe.START, rel=0.05)  # tiny's weights
    larger = {name: tensor * (8 if "layers" in name else 99) for name, tensor in weights.items()}
    assert probe.starting_rate(larger, "model.layers") == pytest.approx(8 * 0.15 * probe.START, rel=0.05)


@pytest.fixture
def find(tmp_path, monkeypatch):
    """``find_rate`` on a tiny model, of two trials at most, its state in ``tmp_path / name``."""
    monkeypatch.setattr(probe, "MOST", 2)
    folder = tiny.write_checkpoint(tmp_path / "model", "opt", dropout=0.1)
    tokenizer, config = checkpoint.load_fast_tokenizer(folder), checkpoint.load_config(folder)
    recipe = replace(RECIPE, learning_rate=None)
    rows, _ = draw_sequences(tokenizer, tiny.sentences(100), packing.boundaries(tokenizer, config), recipe)

    def run(name, texts=TEXTS, questions=(), **changes):
        validation = Validation(tokenizer, texts, 64, Parent(1.0), None, questions)
        given = replace(recipe, **changes)
        return probe.find_rate(folder, rows, validation, recipe=given, runtime=Runtime(4096, 1, None), state=tmp_path / name)

    return run


def test_trials_give_the_same_every_time_and_after_a_kill_only_the_missing_are_run(tmp_path, find, monkeypatch):
    rate, tried = find("whole")
    assert resuming.read_trials(tmp_path / "whole") == tried and rate == probe.best_rate(tried) and len(tried) == 3
    first, *others = tried.items()
    resuming.write_trials(tmp_path / "cut", dict([first]))
    runs = []
    original = probe._try
    monkeypatch.setattr(probe, "_try", lambda *args: runs.append(args) or original(*args))
    assert find("cut") == (rate, tried) and len(runs) == len(others)


def test_trials_watch_the_first_part_of_the_validation_text_and_no_questions(find, monkeypatch):
    monkeypatch.setattr(probe, "CHARACTERS", 200)
    count = next(count for count in range(7) if sum(map(len, TEXTS[:count])) >= 200)
    questions = [{"question": "Where?", "choices": ["a", "b"], "answer": 0}]
    whole = find("all", TEXTS, questions)
    assert 1 < count < 6 and whole == find("part", TEXTS[:count]) and whole != find("less", TEXTS[: count - 1])
