from typing import Any

import pytest

from minigpts.reporting.summary import findings, summarize
from tests.unit.reporting.run_files import evaluation, speech


def test_arithmetic() -> None:
    base = evaluation(num_parameters=1000, checkpoint_bytes=2000, bits_per_byte=1.25, perplexity=16.0, acc=0.5, acc_norm=0.75)
    child = evaluation(
        num_parameters=580, checkpoint_bytes=1150, bits_per_byte=1.0, perplexity=12.0, acc=0.625, acc_norm=0.5, acc_stderr=0.03125
    )
    tuned = evaluation(perplexity=10.0, acc=0.75)
    finetune = {"recovered_at_tokens": 4096}
    files = {"base": base, "finetuned": child, "exported": {}, "tuned_parent": tuned, "finetune": finetune}
    summary = summarize(files)
    assert summary == {
        "acc": 0.625,
        "acc_delta": 0.125,
        "acc_delta_to_tuned_parent": -0.125,
        "acc_norm": 0.5,
        "acc_stderr": 0.03125,
        "bits_per_byte": 1.0,
        "bits_per_byte_ratio": 0.8,
        "bytes_reduction": pytest.approx(0.425),
        "empty_rate": 0.0,
        "end_rate": 0.75,
        "instructions": 0.5,
        "loop_rate": 0.1,
        "megabytes": 0.00115,
        "perplexity": 12.0,
        "perplexity_over_tuned_parent": 1.2,
        "perplexity_ratio": 0.75,
        "recovered_at_tokens": 4096,
        "size_reduction": pytest.approx(0.42),
        "validation_bits_per_byte": 1.1,
    }
    file = {**child, "checkpoint_bytes": 500, "perplexity": 14.0, "acc": 0.5}
    changed = {"perplexity": 14.0, "perplexity_ratio": 0.875, "perplexity_over_tuned_parent": 1.4, "megabytes": 0.0005}
    changed |= {"acc": 0.5, "acc_delta": 0.0, "acc_delta_to_tuned_parent": -0.25, "bytes_reduction": 0.75}
    assert summarize({**files, "exported": file}) == {**summary, **changed}


def test_zero_accuracy_is_a_measurement() -> None:
    files = {"base": evaluation(acc=0.0), "finetuned": evaluation(acc=0.0), "exported": {}, "tuned_parent": {}, "finetune": {}}
    summary = summarize(files)
    assert summary["acc_delta"] == 0.0
    assert summary["recovered_at_tokens"] is None
    assert summary["perplexity_over_tuned_parent"] is None


def test_without_questions_nothing_is_claimed_of_accuracy() -> None:
    without = {key: value for key, value in evaluation(num_questions=0).items() if not key.startswith("acc")}
    files = {"base": without, "finetuned": without, "exported": {}, "tuned_parent": {}, "finetune": {}}
    assert summarize(files)["acc_delta"] is None
    (finding,) = [finding for finding in findings(without, without, {}) if finding.label == "Accuracy"]
    assert finding.good is None
    assert "Not measured" in finding.text


@pytest.mark.parametrize(
    ("child", "tuned", "good", "words"),
    [
        # Better than a parent that was never tuned on this text is no praise; worse is.
        ({"acc": 0.52}, {}, None, "+2.0 points against the untouched parent (50.0% → 52.0%); one standard error is 2.0."),
        ({"acc": 0.45}, {}, False, "−5.0 points against the untouched parent (50.0% → 45.0%)"),
        ({"acc": 0.49}, {}, None, "−1.0 points against the untouched parent"),
        ({"bits_per_byte": 0.9}, {}, None, "10.0% fewer bits per byte on held-out text than the untouched parent (1.000 → 0.900)."),
        ({"bits_per_byte": 1.1}, {}, False, "10.0% more bits per byte on held-out text than the untouched parent"),
        # The tuned parent decides, where there is one.
        ({"acc": 0.55}, {"acc": 0.6}, False, "+5.0 points against the untouched parent"),
        ({"acc": 0.55}, {"acc": 0.6}, False, "−5.0 against the parent tuned on as many tokens (60.0%)"),
        ({"acc": 0.65}, {"acc": 0.6}, True, "+5.0 against the parent tuned"),
        ({"acc": 0.59}, {"acc": 0.6}, None, "−1.0 against the parent tuned"),
        ({"bits_per_byte": 0.9}, {"bits_per_byte": 0.8}, False, "12.5% more than the parent tuned on as many tokens (0.800)."),
        ({"bits_per_byte": 0.8}, {"bits_per_byte": 0.8}, True, "0.0% fewer than the parent tuned on as many tokens (0.800)."),
        ({"num_parameters": 600_000}, {}, False, "40.0% fewer parameters and 0.0% fewer bytes"),
        ({"checkpoint_bytes": 500_128}, {}, True, "75.0% fewer bytes than the parent (2.0\u00a0MB → 0.5\u00a0MB)."),
    ],
)
def test_what_is_praised_is_better_than_the_tuned_parent(
    child: dict[str, Any], tuned: dict[str, Any], good: bool | None, words: str
) -> None:
    verdict = findings(evaluation(), evaluation(**child), evaluation(**tuned) if tuned else {})
    (finding,) = [finding for finding in verdict if words in finding.text and finding.label != "Length-normalized accuracy"]
    assert finding.good is good


@pytest.mark.parametrize("tuned", [{}, evaluation()])
@pytest.mark.parametrize("spoke", [True, False])
def test_what_is_not_known_is_said(tuned: dict[str, Any], spoke: bool) -> None:
    child = {key: value for key, value in evaluation().items() if spoke or key != "speech"}
    (finding,) = [finding for finding in findings(evaluation(), child, tuned) if finding.label == "Not known"]
    assert ("Whether it answers when asked" in finding.text) is not spoke
    assert ("Whether what it says is true" in finding.text) is spoke
    assert ("tune_parent: true" in finding.text) is (tuned == {})


@pytest.mark.parametrize(
    ("child", "tuned", "good", "words"),
    [
        (
            speech(0.0, 0.1),
            None,
            True,
            "0.0% of its replies are empty and 10.0% loop (the untouched parent: 0.0% and 10.0%); it keeps",
        ),
        (speech(0.4, 0.0), None, False, "40.0% of its replies are empty and 0.0% loop"),
        (speech(0.0, 0.2), None, False, "it keeps 50.0% of the checkable instructions (the untouched parent: 50.0%)."),
        (speech(0.0, 0.2), speech(0.0, 0.2), True, "(the tuned parent: 0.0% and 20.0%)"),
        (speech(0.1, 0.1), speech(0.2, 0.1), None, "(the tuned parent: 20.0% and 10.0%)"),  # better, but no praise
        (speech(0.0, 0.1, kept=None), None, True, "(the untouched parent: 0.0% and 10.0%)."),
    ],
)
def test_a_child_that_says_nothing_or_loops_is_called_worse(
    child: dict[str, Any], tuned: dict[str, Any] | None, good: bool | None, words: str
) -> None:
    verdict = findings(evaluation(), evaluation(speech=child), evaluation(speech=tuned) if tuned else {})
    (finding,) = [finding for finding in verdict if finding.label == "Speech"]
    assert words in finding.text
    assert finding.good is good


def test_without_speech_nothing_is_said_of_it() -> None:
    silent = {key: value for key, value in evaluation().items() if key != "speech"}
    files = {"base": silent, "finetuned": silent, "exported": {}, "tuned_parent": {}, "finetune": {}}
    assert summarize(files)["empty_rate"] is None
    assert [finding for finding in findings(silent, silent, {}) if finding.label == "Speech"] == []
