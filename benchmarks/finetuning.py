"""Speed of fine-tuning, as ratios taken side by side: the child against its parent, our Trainer against the plain one."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback

from benchmarks.table import Row
from minigpts import artifacts, checkpoint
from minigpts.corpus import packing
from minigpts.params import Runtime
from minigpts.training.data import PackedSequences, collate, draw_sequences
from minigpts.training.recipe import Recipe
from minigpts.training.trainer import FusedTrainer, training_arguments

STEPS = 2  # of one run; the first warms up
REPEATS = 3
RECIPE = Recipe(
    learning_rate=1e-5,
    weight_decay=0.0,
    warmup_share=0.0,
    batch_size=4,
    sequence_length=256,
    max_tokens=STEPS * 4 * 256,
    max_epochs=200,
    stop="budget",
    patience=1,
    evaluations=1,
    seed=0,
)


def rows(
    parent: Path = Path("data/checkpoints/base"),
    child: Path = Path("data/checkpoints/pruned"),
    text: Path = Path("data/prepared/train.parquet"),
) -> list[Row]:
    """Measure; gives (what, measured, goal)."""
    texts = artifacts.read_table(text, ["text"])["text"]
    loops = {"parent": _Loop(FusedTrainer, parent, texts), "child": _Loop(FusedTrainer, child, texts)}
    loops["plain"] = _Loop(Trainer, child, texts, loops["child"].model)
    times: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(REPEATS):  # interleaved, so that what else the machine does falls on all alike
        for name, loop in loops.items():
            times[name].append(loop.seconds_per_step())
    relative_size = checkpoint.sizes(child)["num_parameters"] / checkpoint.sizes(parent)["num_parameters"]
    goal = 0.8 / relative_size
    return [
        (
            "fine-tuning: child's tokens/s over the parent's, same loop",
            f"{_ratio(times['parent'], times['child']):.2f}",
            f"≥ {goal:.2f}",
        ),
        ("fine-tuning the child: tokens/s over a plain HF Trainer's", f"{_ratio(times['plain'], times['child']):.2f}", "≥ 1.00"),
    ]


def _ratio(above: list[float], below: list[float]) -> float:
    """The median of the ratios of neighbours in time."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


class _Loop:
    """One kind of Trainer on one model."""

    def __init__(self, trainer: type[Trainer], folder: Path, texts: list[str], model: PreTrainedModel | None = None) -> None:
        self.trainer = trainer
        self.model = checkpoint.load_model(folder, torch.float32) if model is None else model
        separator = packing.separator_id(self.model.config)
        sequences, _ = draw_sequences(checkpoint.load_fast_tokenizer(folder), texts, separator, RECIPE)
        self.data = PackedSequences(np.asarray(sequences), STEPS * RECIPE.batch_size, RECIPE.seed)

    def seconds_per_step(self) -> float:
        """Of the steps after the first."""
        clock = _Clock()
        with tempfile.TemporaryDirectory() as scratch:
            arguments = training_arguments(RECIPE, Runtime(RECIPE.tokens_per_step, None), STEPS, Path(scratch))
            trainer = self.trainer(self.model, arguments, data_collator=collate, train_dataset=self.data, callbacks=[clock])
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return (clock.times[-1] - clock.times[0]) / (len(clock.times) - 1)


@dataclass
class _Clock(TrainerCallback):
    times: list[float] = field(default_factory=list)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.times.append(time.perf_counter())


if __name__ == "__main__":
    for row in rows():
        print(*row, sep="  ")
