"""When to evaluate, when to stop, and what is said of it."""

from dataclasses import replace

import pytest

from minigpts.training.recipe import Evaluation, curve_rows, stop_reason, summary
from tests.unit.training.test_trainer import RECIPE


def _curve(*scores):
    return [Evaluation(step, step * 10, score, float(step) if step else None) for step, score in enumerate(scores)]


@pytest.mark.parametrize(
    ("steps", "evaluations", "expected"),
    [(39, 5, {8, 16, 23, 31, 39}), (40, 5, {8, 16, 24, 32, 40}), (2, 5, {1, 2}), (1, 3, {1}), (7, 1, {7})],
)
def test_evaluations_are_spread_evenly_and_the_last_is_at_the_end(steps, evaluations, expected):
    assert replace(RECIPE, evaluations=evaluations).evaluation_steps(steps) == expected


@pytest.mark.parametrize(
    ("max_tokens", "max_epochs", "expected"), [(640, 200, 10), (700, 200, 10), (10**6, 2, 3), (10**6, 200, 312)]
)
def test_the_budget_is_tokens_or_epochs_whichever_is_less(max_tokens, max_epochs, expected):
    assert replace(RECIPE, max_tokens=max_tokens, max_epochs=max_epochs).steps(100) == expected


@pytest.mark.parametrize(
    ("stop", "scores", "expected"),
    [
        ("budget", (3.0, 0.5, 4.0, 5.0, 6.0), None),
        ("budget", (3.0, 0.5, 4.0, 5.0, 6.0, 7.0), "budget"),
        ("recovered", (3.0, 1.1), None),
        ("recovered", (3.0, 1.0), "recovered"),
        ("recovered", (1.0,), "recovered"),
        ("recovered", (3.0, 2.0, 2.0, 2.0, 2.0, 2.0), "budget"),
        ("recovered", (3.0, 2.0, 2.0, 2.0, 2.0, 0.9), "recovered"),
        ("plateau", (3.0, 2.0, 2.0), None),
        ("plateau", (3.0, 2.0, 2.0, 2.5), "plateau"),
        ("plateau", (3.0, 2.0, 2.5, 1.9), None),
        ("plateau", (3.0, 2.0, 1.5, 1.2, 1.1, 1.0), "budget"),
    ],
)
def test_stopping(stop, scores, expected):
    assert stop_reason(_curve(*scores), replace(RECIPE, stop=stop, patience=2), parent=1.0, steps=5) == expected


def test_the_summary_names_recovery_best_and_overfitting():
    values = summary(_curve(3.0, 0.9, 0.8, 0.95), "budget", 0.9, epochs=1.5)
    assert values["recovered"] and values["recovered_at_step"] == 1 and values["recovered_at_tokens"] == 10
    assert values["best_step"] == 2 and values["overfitting_bits_per_byte"] == pytest.approx(0.15)
    assert (values["steps"], values["tokens"], values["epochs"], values["train_loss"]) == (3, 30, 1.5, 3.0)
    never = summary(_curve(3.0, 2.0), "budget", 0.9, epochs=1.5)
    assert not never["recovered"] and never["recovered_at_step"] is None and never["recovered_at_tokens"] is None
    assert [row["parent_validation_bits_per_byte"] for row in curve_rows(_curve(3.0, 2.0), 0.9)] == [0.9, 0.9]
