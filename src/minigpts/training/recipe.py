"""What fine-tuning is told to do, and when it stops. No torch here: a wrong recipe is refused at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from minigpts import artifacts
from minigpts.errors import UserError
from minigpts.params import require


@dataclass(frozen=True)
class Recipe:
    """The ``finetune`` section of params.yaml: AdamW on a cosine schedule over packed sequences."""

    learning_rate: float | None  # the peak; null: found by trials before the run, and lowered where the run needs it
    weight_decay: float  # of matrices; norms and biases are never decayed
    warmup_share: float  # of the steps, linear
    batch_size: int  # packed sequences in one step, on all devices together
    sequence_length: int  # tokens in one packed sequence
    max_tokens: int  # the budget
    max_epochs: int  # passes over the training text the budget may not exceed; the paper's cap is 200
    stop: Literal["recovered", "plateau", "budget"]  # at the parent's bits per byte, when nothing improves, at the end
    patience: int  # plateau: evaluations in a row without a better one
    evaluations: int  # spread evenly over the budget, the last at its end; one more comes before the first step
    seed: int  # of the data order, and of dropout where the model has it
    distillation: float  # weight of the teacher's distribution in the loss; the rest is the text's own
    teacher: str  # the checkpoint folder to distil from, below data/checkpoints; dvc.yaml makes it the stage's --teacher
    freeze_embeddings: bool  # token embeddings and output head stay as they are
    lora_rank: int  # rank of the adapters that are tuned instead of the weights, and merged on saving; 0: the weights
    general: Literal["text", "parent"] | None  # blend in dataset.general_text, or what write_general let the parent write
    general_share: float  # of the packed sequences, that are general text

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.learning_rate is None or self.learning_rate > 0, "finetune.learning_rate must be > 0", self.learning_rate)
        require(self.weight_decay >= 0, "finetune.weight_decay must be ≥ 0", self.weight_decay)
        require(0 <= self.warmup_share < 1, "finetune.warmup_share must be ≥ 0 and < 1", self.warmup_share)
        require(self.sequence_length >= 2, "finetune.sequence_length must be ≥ 2", self.sequence_length)
        for name in ("batch_size", "max_epochs", "patience", "evaluations"):
            require(getattr(self, name) >= 1, f"finetune.{name} must be ≥ 1", getattr(self, name))
        require(0 <= self.seed < 2**32, "finetune.seed must be ≥ 0 and < 2^32", self.seed)  # numpy takes no other
        require(0 <= self.distillation <= 1, "finetune.distillation must be ≥ 0 and ≤ 1", self.distillation)
        require(self.lora_rank >= 0, "finetune.lora_rank must be ≥ 0", self.lora_rank)
        require(0 <= self.general_share < 1, "finetune.general_share must be ≥ 0 and < 1", self.general_share)
        if self.general is None:
            require(self.general_share == 0, "finetune.general_share must be 0 where finetune.general is null", self.general_share)
        else:
            rule = f"finetune.general_share must be > 0 where finetune.general is {self.general}"
            require(self.general_share > 0, rule, self.general_share)
        untouched = self.general != "parent" or self.teacher == "base"
        require(untouched, "finetune.teacher must be base, the untouched parent, where finetune.general is parent", self.teacher)
        rule = f"finetune.max_tokens must be ≥ batch_size × sequence_length = {self.tokens_per_step}"
        require(self.max_tokens >= self.tokens_per_step, rule, self.max_tokens)

    @property
    def tokens_per_step(self) -> int:
        """Tokens in one optimizer step."""
        return self.batch_size * self.sequence_length

    def tuned(self, parameters: int, outside: int) -> int:
        """How many of a model's ``parameters``, ``outside`` of them in embedding and head, are tuned; adapters are few: 0."""
        return 0 if self.lora_rank else parameters - (outside if self.freeze_embeddings else 0)

    def weight_bytes(self, parameters: int, outside: int) -> int:
        """Memory without any text: the weights, and of those that are tuned the gradient and AdamW's two moments, all fp32."""
        return 4 * parameters + 12 * self.tuned(parameters, outside)

    def steps(self, train_tokens: int) -> int:
        """Steps the budget pays for, given the tokens of one epoch. Raises UserError when they are none."""
        steps = min(self.max_tokens, self.max_epochs * train_tokens) // self.tokens_per_step
        if steps == 0:
            raise UserError(
                f"the training text has {train_tokens} packed tokens, too few for one step of {self.tokens_per_step} within"
                f" {self.max_epochs} epochs (finetune.max_epochs); give more text or a smaller finetune.batch_size"
            )
        return steps

    def evaluation_steps(self, steps: int) -> frozenset[int]:
        """After which of ``steps`` steps to evaluate (fewer than ``evaluations`` when there are fewer steps)."""
        return frozenset(round(index * steps / self.evaluations) for index in range(1, self.evaluations + 1)) - {0}


@dataclass(frozen=True)
class Evaluation:
    """One point of the recovery curve. Without validation questions there are no accuracies."""

    step: int
    tokens: int  # seen so far
    validation_bits_per_byte: float
    train_loss: float | None  # mean nats per token over the steps since the previous point; None before the first step
    validation_acc: float | None = None
    validation_acc_norm: float | None = None
    validation_acc_norm_stderr: float | None = None


@dataclass(frozen=True)
class Parent:
    """What the parent scores on the same validation text and questions: recovery is measured against it."""

    bits_per_byte: float
    acc: float | None = None
    acc_norm: float | None = None


def read_parent(path: Path) -> Parent:
    """From the metrics that ``evaluate`` wrote of the parent. Raises UserError when its bits per byte are not there."""
    metrics = artifacts.read_json(path)
    value = metrics.get("validation_bits_per_byte")
    if not isinstance(value, int | float):
        raise UserError(f"{path}: no validation_bits_per_byte; run `dvc repro evaluate@base` to make it")
    return Parent(value, metrics.get("validation_acc"), metrics.get("validation_acc_norm"))


OVERFIT = 1.005  # the last point's bits per byte over the lowest's, beyond which tuning went on for too long


def best(curve: Sequence[Evaluation]) -> Evaluation:
    """The point whose weights are kept: bits per byte decide, answers have a veto.

    A point takes the place of the one kept when its bits per byte are lower, unless its ``acc_norm`` is more than one
    standard error below the highest so far. Going through the curve in order, that never asks for weights already let go.
    """
    kept = highest = curve[0]
    for point in curve[1:]:
        highest = point if _acc_norm(point) > _acc_norm(highest) else highest
        if point.validation_bits_per_byte < kept.validation_bits_per_byte and not _lost_answers(point, highest):
            kept = point
    return kept


def _acc_norm(point: Evaluation) -> float:
    return 0.0 if point.validation_acc_norm is None else point.validation_acc_norm


def _lost_answers(point: Evaluation, reference: Evaluation) -> bool:
    """Whether ``acc_norm`` is more than one standard error (the reference's) below the reference's."""
    return _acc_norm(point) < _acc_norm(reference) - (reference.validation_acc_norm_stderr or 0.0)


def overfitting(curve: Sequence[Evaluation]) -> bool:
    """Whether the last point's bits per byte are clearly above the lowest: the training text is being learnt by heart."""
    return curve[-1].validation_bits_per_byte > OVERFIT * _lowest(curve)


def answers_lost(curve: Sequence[Evaluation]) -> bool:
    """Whether the last point answers fewer questions than there were before tuning, by more than a standard error."""
    return _lost_answers(curve[-1], curve[0])


def _lowest(curve: Sequence[Evaluation]) -> float:
    return min(point.validation_bits_per_byte for point in curve)


def warnings(curve: Sequence[Evaluation]) -> list[str]:
    """What the user should know of how tuning ended, a line each: overfitting, answers lost, what is kept for it."""
    first, last, top = curve[0], curve[-1], best(curve)
    lines, kept = [], f"the weights of step {top.step} are kept"
    if worse_than_before(curve):
        rise = last.validation_bits_per_byte / first.validation_bits_per_byte - 1
        lines.append(f"tuning did harm: validation bits per byte rose by {rise:.1%}; finetune.learning_rate: null finds a rate")
    if overfitting(curve):
        rise = last.validation_bits_per_byte / _lowest(curve) - 1
        lines.append(f"overfitting: validation bits per byte end {rise:.1%} above their lowest; {kept}")
    if answers_lost(curve):
        lines.append(
            f"answers lost: acc_norm on the validation questions fell from {_acc_norm(first):.3f} to {_acc_norm(last):.3f} in"
            f" tuning, more than a standard error ({first.validation_acc_norm_stderr:.3f}); {kept}"
        )
    elif top.validation_bits_per_byte > _lowest(curve):
        lines.append(f"answers lost on the way: bits per byte fell on after step {top.step}, answers fell with them; {kept}")
    return lines


def stop_reason(curve: Sequence[Evaluation], recipe: Recipe, parent: float, steps: int) -> str | None:
    """Why tuning ends with the last point of the curve (``recovered``, ``plateau``, ``budget``), or None."""
    last = curve[-1]
    if recipe.stop == "recovered" and last.validation_bits_per_byte <= parent:
        return "recovered"
    if recipe.stop == "plateau" and len(curve) - 1 - curve.index(best(curve)) >= recipe.patience:
        return "plateau"
    return "budget" if last.step >= steps else None


FALL = 0.25  # of the learning rate, whenever a run turns out worse than no tuning


def worse_than_before(curve: Sequence[Evaluation]) -> bool:
    """Whether the last point's bits per byte are above those before tuning."""
    return curve[-1].validation_bits_per_byte > curve[0].validation_bits_per_byte


def falls(curve: Sequence[Evaluation]) -> int:
    """How many points of a guarded run sent it back to its best weights, to go on at :data:`FALL` of the rate."""
    return sum(worse_than_before(curve[: index + 1]) for index in range(1, len(curve) - 1))


SCORES = ("validation_bits_per_byte", "validation_acc", "validation_acc_norm")


def summary(
    curve: Sequence[Evaluation], reason: str, parent: Parent, epochs: float, rate: float, tried: Mapping[float, float]
) -> dict[str, Any]:
    """The metrics of a finished run. ``epochs``: passes over the whole training text. Bits per byte are on validation text.

    ``rate`` is the peak of the learning rate, and ``tried`` what each rate's trial gave, which is nothing for a user's own rate.
    """
    last, top = curve[-1], best(curve)
    recovered = next((point for point in curve if point.validation_bits_per_byte <= parent.bits_per_byte), None)
    named = {"before": curve[0], "best": top, "last": last}
    return {
        "steps": last.step,
        "tokens": last.tokens,
        "epochs": epochs,
        "stop_reason": reason,
        "recovered": recovered is not None,
        "recovered_at_step": None if recovered is None else recovered.step,
        "recovered_at_tokens": None if recovered is None else recovered.tokens,
        "parent_validation_bits_per_byte": parent.bits_per_byte,
        **{f"{score}_{name}": getattr(point, score) for score in SCORES for name, point in named.items()},
        "best_step": top.step,
        "overfitting": overfitting(curve),
        "overfitting_bits_per_byte": last.validation_bits_per_byte - _lowest(curve),  # 0: still improving
        "answers_lost": answers_lost(curve),
        "train_loss": last.train_loss,
        "learning_rate": rate,
        "learning_rate_falls": falls(curve) if tried else 0,
        "learning_rates_tried": {f"{rate:g}": score if math.isfinite(score) else None for rate, score in sorted(tried.items())},
    }


def curve_rows(curve: Sequence[Evaluation], parent: Parent) -> list[dict[str, Any]]:
    """The curve with the parent's line beside it, as rows of a table."""
    beside = {
        "parent_validation_bits_per_byte": parent.bits_per_byte,
        "parent_validation_acc": parent.acc,
        "parent_validation_acc_norm": parent.acc_norm,
    }
    return [{**asdict(point), **beside} for point in curve]
