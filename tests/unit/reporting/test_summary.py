from typing import Any

import pytest

from minigpts.reporting.summary import findings, summarize
from tests.unit.reporting.run_files import evaluation


def test_arithmetic() -> None:
    base = evaluation(num_parameters=1000, checkpoint_bytes=2000, bits_per_byte=1.25, perplexity=16.0, acc=0.5, acc_norm=0.75)
    child = evaluation(
        num_parameters=580, checkpoint_bytes=1150, bits_per_byte=1.0, perplexity=12.0, acc=0.625, acc_norm=0.5, acc_stderr=0.03125
    )
    summary = summarize(base, child, {"recovered_at_tokens": 4096})
    assert summary["size_reduction"] == pytest.approx(0.42)
    assert summary["bytes_reduction"] == pytest.approx(0.425)
    assert summary["bits_per_byte_ratio"] == 0.8
    assert summary["perplexity_ratio"] == 0.75
    assert (summary["acc_delta"], summary["acc_norm_delta"], summary["acc_stderr"]) == (0.125, -0.25, 0.03125)
    assert summary["recovered_at_tokens"] == 4096
    assert (summary["parent"]["num_parameters"], summary["child"]["num_parameters"]) == (1000, 580)


def test_zero_accuracy_is_a_measurement() -> None:
    summary = summarize(evaluation(acc=0.0), evaluation(acc=0.0), {})
    assert summary["acc_delta"] == 0.0
    assert summary["recovered_at_tokens"] is None


def test_without_questions_nothing_is_claimed_of_accuracy() -> None:
    without = {key: value for key, value in evaluation(num_questions=0).items() if not key.startswith("acc")}
    summary = summarize(without, without, {})
    assert summary["acc_delta"] is None
    assert "acc" not in summary["parent"]
    (finding,) = [finding for finding in findings(summary) if "ccuracy" in finding.text]
    assert finding.good is None
    assert "not measured" in finding.text


@pytest.mark.parametrize(
    ("changes", "good", "words"),
    [
        ({"acc": 0.49}, False, ("Accuracy fell by 1.0 points", "within one standard error (2.0)")),
        ({"acc": 0.45}, False, ("Accuracy fell by 5.0 points", "50.0% → 45.0%", "more than one standard error (2.0)")),
        ({"acc": 0.52}, True, ("Accuracy held: +2.0 points",)),
        ({"bits_per_byte": 1.1}, False, ("10.0% more bits per byte", "worse than its parent")),
        ({"bits_per_byte": 0.9}, True, ("10.0% fewer bits per byte", "better than its parent")),
        ({"num_parameters": 600_000}, True, ("40.0% fewer parameters",)),
    ],
)
def test_a_loss_is_called_a_loss(changes: dict[str, Any], good: bool, words: tuple[str, ...]) -> None:
    verdict = findings(summarize(evaluation(), evaluation(**changes), {}))
    (finding,) = [finding for finding in verdict if all(word in finding.text for word in words)]
    assert finding.good is good
