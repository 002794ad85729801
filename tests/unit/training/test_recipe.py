"""When to evaluate, when to stop, and what is said of it."""

import itertools
import math
import random
from dataclasses import replace

import pytest

from minigpts.errors import UserError
from minigpts.training.recipe import Evaluation, Parent, best, curve_rows, stop_reason, summary, warnings
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
    assert replace(RECIPE, sequence_length=16, max_tokens=max_tokens, max_epochs=max_epochs).steps(100) == expected


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


def _answering(*points):
    """A curve of (bits per byte, acc_norm) with a standard error of 0.05."""
    return [Evaluation(step, step * 10, bits, None, acc - 0.1, acc, 0.05) for step, (bits, acc) in enumerate(points)]


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(3.0, 0.60), (2.0, 0.60), (1.0, 0.56)], 2),  # within a standard error: bits per byte decide
        ([(3.0, 0.60), (2.0, 0.60), (1.0, 0.54)], 1),  # answers lost
        ([(3.0, 0.60), (2.0, 0.50), (1.0, 0.58)], 2),  # lost and found again
        ([(3.0, 0.60), (2.0, 0.50), (1.0, 0.40)], 0),  # nothing that tuning gave is worth it
        ([(3.0, 0.30), (2.0, 0.50), (1.0, 0.40)], 1),  # lost after tuning had won them
        ([(3.0, 0.60), (2.0, 0.57), (1.0, 0.54)], 1),  # no drift, a standard error at a time
        ([(1.0, 0.50), (2.0, 0.90)], 0),  # answers alone don't decide
        ([(2.0, 0.50), (1.0, 0.50), (1.0, 0.50)], 1),  # the first of equals
    ],
)
def test_bits_per_byte_decide_and_answers_have_a_veto(points, expected):
    assert best(_answering(*points)).step == expected


def test_going_on_never_brings_back_what_was_let_go():
    """Weights are kept for the best point so far alone."""
    generator = random.Random(0)
    for _ in range(200):
        curve = _answering(*((generator.random(), generator.random()) for _ in range(8)))
        kept = [best(curve[: length + 1]).step for length in range(8)]
        assert all(now in (before, length + 1) for length, (before, now) in enumerate(itertools.pairwise(kept)))


def test_overfitting_and_lost_answers_are_said():
    assert warnings(_curve(3.0, 1.0, 1.004)) == [] and warnings(_answering((3.0, 0.6), (1.0, 0.56))) == []
    (line,) = warnings(_curve(3.0, 1.0, 1.01))
    assert line == "overfitting: validation bits per byte end 1.0% above their lowest; the weights of step 1 are kept"
    (line,) = warnings(_answering((3.0, 0.6), (2.0, 0.6), (1.0, 0.5)))
    (other,) = warnings(_answering((3.0, 0.3), (2.0, 0.5), (1.0, 0.4)))
    assert other.startswith("answers lost on the way: bits per byte fell on after step 1")
    assert "from 0.600 to 0.500" in line and "(0.050)" in line and "the weights of step 1 are kept" in line
    values = summary(_answering((3.0, 0.6), (2.0, 0.6), (1.0, 0.5)), "budget", Parent(0.9), epochs=1.0, rate=2e-4, tried={})
    assert values["answers_lost"] and not values["overfitting"] and values["overfitting_bits_per_byte"] == 0
    assert (values["validation_acc_norm_before"], values["validation_acc_norm_best"]) == (0.6, 0.6)
    assert (values["validation_acc_norm_last"], values["validation_acc_last"]) == (0.5, 0.4)
    assert values["best_step"] == 1 and values["validation_bits_per_byte_best"] == 2.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distillation": 1.5}, "finetune.distillation must be ≥ 0 and ≤ 1"),
        ({"lora_rank": -1}, "finetune.lora_rank must be ≥ 0"),
        ({"general_share": 1.0}, "finetune.general_share must be ≥ 0 and < 1"),
        ({"general_share": 0.2}, "finetune.general_share must be 0 where finetune.general is null, got 0.2"),
        ({"general": "text"}, "finetune.general_share must be > 0 where finetune.general is text, got 0"),
        (
            {"general": "parent", "general_share": 0.2, "teacher": "tuned_parent"},
            "finetune.teacher must be base, the untouched parent, where finetune.general is parent, got 'tuned_parent'",
        ),
    ],
)
def test_a_wrong_recipe_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        replace(RECIPE, **changes)


def test_the_summary_names_recovery_best_and_overfitting():
    values = summary(_curve(3.0, 0.9, 0.8, 0.95), "budget", Parent(0.9), epochs=1.5, rate=2e-4, tried={})
    assert values["recovered"] and values["recovered_at_step"] == 1 and values["recovered_at_tokens"] == 10
    assert values["best_step"] == 2 and values["overfitting_bits_per_byte"] == pytest.approx(0.15)
    assert (values["steps"], values["tokens"], values["epochs"], values["train_loss"]) == (3, 30, 1.5, 3.0)
    assert values["overfitting"] and not values["answers_lost"] and values["validation_acc_norm_best"] is None
    never = summary(_curve(3.0, 2.0), "budget", Parent(0.9), epochs=1.5, rate=2e-4, tried={})
    assert not never["recovered"] and never["recovered_at_step"] is None and never["recovered_at_tokens"] is None
    rows = curve_rows(_curve(3.0, 2.0), Parent(0.9, 0.5, 0.6))
    assert [row["parent_validation_bits_per_byte"] for row in rows] == [0.9, 0.9]
    assert [row["parent_validation_acc_norm"] for row in rows] == [0.6, 0.6] and rows[0]["validation_acc"] is None


def test_every_rate_tried_is_in_the_metrics_and_what_the_run_fell_back_from():
    curve, tried = _curve(3.0, 4.0, 2.0, 3.1, 1.0, 9.0), {2e-4: 2.5, 1e-4: 2.25, 4e-4: math.inf}
    found = summary(curve, "budget", Parent(0.9), 1.0, 1.2e-4, tried)
    assert found["learning_rates_tried"] == {"0.0001": 2.25, "0.0002": 2.5, "0.0004": None}
    assert found["learning_rate"] == 1.2e-4 and found["learning_rate_falls"] == 2  # not after the last point
    assert summary(curve, "budget", Parent(0.9), 1.0, 1.2e-4, {})["learning_rate_falls"] == 0


def test_a_run_that_does_harm_says_so():
    harm, overfitting = warnings(_curve(3.0, 2.0, 3.3))
    assert harm == "tuning did harm: validation bits per byte rose by 10.0%; finetune.learning_rate: null finds a rate"
    assert overfitting.startswith("overfitting")
