"""What fine-tuning is told to do, and when it stops. No torch here: a wrong recipe is refused at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from minigpts.errors import UserError
from minigpts.params import require


@dataclass(frozen=True)
class Recipe:
    """The ``finetune`` section of params.yaml: AdamW on a cosine schedule over packed sequences."""

    learning_rate: float  # the peak
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

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.learning_rate > 0, "finetune.learning_rate must be > 0", self.learning_rate)
        require(self.weight_decay >= 0, "finetune.weight_decay must be ≥ 0", self.weight_decay)
        require(0 <= self.warmup_share < 1, "finetune.warmup_share must be ≥ 0 and < 1", self.warmup_share)
        require(self.sequence_length >= 2, "finetune.sequence_length must be ≥ 2", self.sequence_length)
        for name in ("batch_size", "max_epochs", "patience", "evaluations"):
            require(getattr(self, name) >= 1, f"finetune.{name} must be ≥ 1", getattr(self, name))
        require(self.seed >= 0, "finetune.seed must be ≥ 0", self.seed)
        rule = f"finetune.max_tokens must be ≥ batch_size × sequence_length = {self.tokens_per_step}"
        require(self.max_tokens >= self.tokens_per_step, rule, self.max_tokens)

    @property
    def tokens_per_step(self) -> int:
        """Tokens in one optimizer step."""
        return self.batch_size * self.sequence_length

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
    """One point of the recovery curve."""

    step: int
    tokens: int  # seen so far
    validation_bits_per_byte: float
    train_loss: float | None  # mean nats per token over the steps since the previous point; None before the first step


def best(curve: Sequence[Evaluation]) -> Evaluation:
    """The first of the lowest points."""
    return min(curve, key=lambda point: point.validation_bits_per_byte)


def stop_reason(curve: Sequence[Evaluation], recipe: Recipe, parent: float, steps: int) -> str | None:
    """Why tuning ends with the last point of the curve (``recovered``, ``plateau``, ``budget``), or None."""
    last = curve[-1]
    if recipe.stop == "recovered" and last.validation_bits_per_byte <= parent:
        return "recovered"
    if recipe.stop == "plateau" and len(curve) - 1 - curve.index(best(curve)) >= recipe.patience:
        return "plateau"
    return "budget" if last.step >= steps else None


def summary(curve: Sequence[Evaluation], reason: str, parent: float, epochs: float) -> dict[str, Any]:
    """The metrics of a finished run. ``epochs``: passes over the whole training text. Bits per byte are on validation text."""
    first, last, top = curve[0], curve[-1], best(curve)
    recovered = next((point for point in curve if point.validation_bits_per_byte <= parent), None)
    return {
        "steps": last.step,
        "tokens": last.tokens,
        "epochs": epochs,
        "stop_reason": reason,
        "recovered": recovered is not None,
        "recovered_at_step": None if recovered is None else recovered.step,
        "recovered_at_tokens": None if recovered is None else recovered.tokens,
        "parent_validation_bits_per_byte": parent,
        "validation_bits_per_byte_before": first.validation_bits_per_byte,
        "validation_bits_per_byte_best": top.validation_bits_per_byte,
        "validation_bits_per_byte_last": last.validation_bits_per_byte,
        "best_step": top.step,
        "overfitting_bits_per_byte": last.validation_bits_per_byte - top.validation_bits_per_byte,  # 0: still improving
        "train_loss": last.train_loss,
    }


def curve_rows(curve: Sequence[Evaluation], parent: float) -> list[dict[str, Any]]:
    """The curve with the parent's line beside it, as rows of a table."""
    return [
        {
            "step": point.step,
            "tokens": point.tokens,
            "validation_bits_per_byte": point.validation_bits_per_byte,
            "train_loss": point.train_loss,
            "parent_validation_bits_per_byte": parent,
        }
        for point in curve
    ]
