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


@pytest.mark.parametrize("vertex", [3e-5, 2.2e-4, 2.9e-4, 1.1e-3])
def test_the_search_brackets_the_lowest_and_hits_a_parabolas_vertex(vertex):
    tried = _search(2e-4, lambda rate: 1 + math.log(rate / vertex) ** 2)
    lowest = min(tried, key=tried.get)
    assert {lowest / 2, lowest * 2} <= tried.keys() and len(tried) <= 6
    assert probe.best_rate(tried) == pytest.approx(vertex, rel=0.04)  # two digits


def test_a_rate_that_ruins_is_worse_than_any_and_the_search_always_ends():
    tried = _search(1e-3, lambda rate: math.inf if rate > 4e-4 else 1 + math.log(rate / 2e-4) ** 2)
    assert probe.best_rate(tried) == pytest.approx(2e-4, rel=0.3)
    for score in (lambda rate: rate, lambda rate: -rate):  # the lower the better, the higher the better
        tried = _search(1e-3, score)
        assert len(tried) == probe.MOST and probe.best_rate(tried) == pytest.approx(min(tried, key=tried.get), rel=0.05)


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
        validation = Validation(tokenizer, texts, 64, Parent(1.0), questions)
        given = replace(recipe, **changes)
        return probe.find_rate(folder, rows, validation, recipe=given, runtime=Runtime(4096, 1), state=tmp_path / name)

    return run


def test_trials_give_the_same_every_time_and_after_a_kill_only_the_missing_are_run(tmp_path, find, monkeypatch):
    rate, tried = find("whole")
    assert resuming.read_trials(tmp_path / "whole") == tried and rate == probe.best_rate(tried) and len(tried) == 2
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
