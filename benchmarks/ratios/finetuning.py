"""Speed of fine-tuning, as ratios taken side by side: the child against its parent, our Trainer against the plain one.

The plain one is what a user would write: stock ``Trainer``, stock loss, one document a row, padded to the longest of the
batch. Both take the same documents in every step, about eight in a forward (the Trainer's own default), so their losses must
agree, and the ratio of their times is that of their real tokens a second.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback

from benchmarks.table import Row
from minigpts import artifacts
from minigpts.model import checkpoint, packing
from minigpts.model.packing import IGNORED
from minigpts.params import Runtime
from minigpts.training.data import PackedSequences, collate, draw_sequences
from minigpts.training.recipe import Recipe
from minigpts.training.trainer import FusedTrainer, training_arguments

REPEATS = 3
TIMED = Recipe(
    learning_rate=1e-5,
    weight_decay=0.0,
    warmup_share=0.0,
    batch_size=4,
    sequence_length=256,
    max_tokens=2 * 4 * 256,  # two steps; the first warms up
    max_epochs=200,
    stop="budget",
    patience=1,
    evaluations=1,
    seed=0,
    distillation=0.0,
    teacher="base",
    freeze_embeddings=False,
    lora_rank=0,
    general=None,
    general_share=0.0,
)
COMPARED = replace(TIMED, learning_rate=5e-4, warmup_share=0.05, batch_size=1, max_tokens=20 * 256)  # twenty short steps
AT_ONCE = 2  # packed sequences in a forward


def rows(
    parent: Path = Path("data/checkpoints/base"),
    child: Path = Path("data/checkpoints/pruned"),
    text: Path = Path("data/prepared/train.parquet"),
) -> list[Row]:
    """Measure; gives (what, measured, goal)."""
    texts = artifacts.read_table(text, ["text"])["text"]
    losses = [_Loop(kind, rows, child, texts, COMPARED).run() for kind, rows in ((FusedTrainer, collate), (Trainer, padded))]
    difference = max(abs(ours / plain - 1) for ours, plain in zip(*(run.losses for run in losses), strict=True))

    ours = _Loop(FusedTrainer, collate, child, texts, TIMED)
    loops = {
        "parent": _Loop(FusedTrainer, collate, parent, texts, TIMED),
        "child": ours,
        "plain": _Loop(Trainer, padded, child, texts, TIMED, ours.model),
    }
    times: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(REPEATS):  # interleaved, so that what else the machine does falls on all alike
        for name, loop in loops.items():
            times[name].append(loop.run().seconds_per_step())
    relative_size = checkpoint.sizes(child)["num_parameters"] / checkpoint.sizes(parent)["num_parameters"]
    padding = f"of the plain one's tokens {loops['plain'].padding():.0%} are padding"
    return [
        (
            "fine-tuning: child's tokens/s over the parent's, same loop",
            f"{_ratio(times['parent'], times['child']):.2f}",
            f"≥ {0.8 / relative_size:.2f}",
        ),
        (
            f"fine-tuning the child: tokens/s over a plain HF Trainer's, same documents a step ({padding})",
            f"{_ratio(times['plain'], times['child']):.2f}",
            "≥ 1.30",
        ),
        ("fine-tuning the child: largest relative difference to that Trainer's losses, 20 steps", f"{difference:.1e}", "≤ 1e-3"),
    ]


def padded(rows: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The documents of packed rows as a plain Trainer takes them: one a row, padded, the padding masked and no target."""
    documents = []
    for ids, labels in rows:
        starts = [*torch.nonzero(labels == IGNORED).flatten().tolist(), len(ids)]
        documents += [ids[start:end] for start, end in itertools.pairwise(starts) if end - start > 1]
    masks = [torch.ones_like(ids) for ids in documents]
    return {
        "input_ids": pad_sequence(documents, batch_first=True, padding_value=0),
        "labels": pad_sequence(documents, batch_first=True, padding_value=IGNORED),
        "attention_mask": pad_sequence(masks, batch_first=True, padding_value=0),
    }


def _ratio(above: list[float], below: list[float]) -> float:
    """The median of the ratios of neighbours in time."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


class _Loop:
    """One kind of Trainer on one model."""

    def __init__(
        self,
        trainer: type[Trainer],
        collator: Callable[[Sequence[torch.Tensor]], dict[str, torch.Tensor]],
        folder: Path,
        texts: list[str],
        recipe: Recipe,
        model: PreTrainedModel | None = None,
    ) -> None:
        self.trainer, self.collator, self.recipe = trainer, collator, recipe
        self.model = checkpoint.load_model(folder, torch.float32) if model is None else model
        tokenizer = checkpoint.load_fast_tokenizer(folder)
        sequences, _ = draw_sequences(tokenizer, texts, packing.boundaries(tokenizer, self.model.config), recipe)
        self.steps = recipe.max_tokens // recipe.tokens_per_step
        self.data = PackedSequences(sequences, self.steps * recipe.batch_size, recipe.seed)

    def run(self) -> _Watch:
        """Train; gives what was seen of it."""
        watch = _Watch()
        machine = Runtime(AT_ONCE * self.recipe.sequence_length, None, None)
        with tempfile.TemporaryDirectory() as scratch:
            arguments = training_arguments(self.recipe, machine, self.steps, Path(scratch))
            arguments.logging_strategy, arguments.logging_steps = "steps", 1
            trainer = self.trainer(self.model, arguments, data_collator=self.collator, train_dataset=self.data, callbacks=[watch])
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return watch

    def padding(self) -> float:
        """Share of the tokens in the collator's batches that are padding."""
        batches = [self.data[index] for index in range(len(self.data))]
        masks = [self.collator(batches[at : at + AT_ONCE])["attention_mask"] for at in range(0, len(batches), AT_ONCE)]
        return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


@dataclass
class _Watch(TrainerCallback):
    times: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.times.append(time.perf_counter())

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        self.losses += [logs["loss"]] if logs and "loss" in logs else []

    def seconds_per_step(self) -> float:
        """Of the steps after the first."""
        return (self.times[-1] - self.times[0]) / (len(self.times) - 1)


if __name__ == "__main__":
    for row in rows():
        print(*row, sep="  ")
