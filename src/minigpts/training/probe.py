"""The learning rate that suits this child: a few short trials from the same weights on the same rows, before the run itself.

Which rate a child bears depends on how large its weights are and on how much of what it knew is left: between two parents it
differs by a factor of ten. So the first rate tried is relative to the weights, and trials lead from there. The best rate of a few
steps is too high for many, as noise adds up: the run takes the lowest rate that would do nearly as well in the trials.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PrinterCallback

from minigpts import ranks
from minigpts.evaluation import language_modeling
from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from minigpts.params import Runtime
from minigpts.training import resuming
from minigpts.training.data import PackedSequences, collate
from minigpts.training.distillation import Teacher
from minigpts.training.recipe import Recipe
from minigpts.training.sharded import Plain
from minigpts.training.trainer import FusedTrainer, Validation, deterministic, is_recurrent, set_trainable, training_arguments

# All of these hold on children of SmolLM2-135M and Gemma-3-270M (docs/experiments/second_parent.md).
START = 1e-3  # the first rate tried, in units of the weights' root mean square
FACTOR = 2.0  # between neighbouring rates
SHARE_OF_STEPS = 0.035  # of the run, that one trial takes
LEAST_STEPS = 4
NEARLY = 0.85  # of the best trial's gain over no tuning: the lowest rate that would have as much is taken
CHARACTERS = 8000  # of validation text that a trial is scored on, at least
MOST = 8  # trials


def find_rate(
    folder: Path,
    sequences: np.ndarray,
    validation: Validation,
    *,
    recipe: Recipe,
    runtime: Runtime,
    state: Path,
    teacher: Teacher | None = None,
) -> tuple[float, dict[float, float]]:
    """The learning rate for the checkpoint ``folder``, and the validation bits per byte after a trial of each rate tried.

    Rate 0 stands for no tuning. A trial tunes the checkpoint in fp32 on ``sequences`` (num_sequences, 2, sequence_length), as the
    run will. What it gave is kept in ``state``, so that a killed search goes on where it was.
    """
    tried = resuming.read_trials(state)
    first = starting_rate(checkpoint.StoredWeights(folder), spec_for(checkpoint.load_config(folder).model_type).layers)
    with tqdm(desc="finding the learning rate", unit="trial", disable=None) as bar:
        for rate in rates_to_try(first, tried):
            model = checkpoint.load_model(folder, torch.float32)
            trial = replace(recipe, learning_rate=rate or None)  # 0: no tuning
            tried[rate] = _try(model, sequences, validation, trial, runtime, state, teacher)
            del model
            gc.collect()  # a Trainer is a cycle, and holds the model's size four times over
            if ranks.is_main():
                resuming.write_trials(state, tried)
            bar.update()
    return best_rate(tried), tried


def starting_rate(weights: Mapping[str, torch.Tensor], layers: str) -> float:
    """The first rate to try: relative to the root mean square of a typical matrix of the decoder layers, two digits of it."""
    names = [name for name in weights if name.startswith(f"{layers}.")]
    sizes = [float(matrix.float().square().mean().sqrt()) for name in names if (matrix := weights[name]).dim() > 1]
    return float(f"{START * median(sizes):.1e}")


def rates_to_try(first: float, tried: Mapping[float, float]) -> Iterator[float]:
    """The rates still to be tried, each after ``tried`` has the one before: 0, ``first``, and from there on those below the
    lowest that is nearly as good as the best and those above the best, until either has a neighbour that is tried."""
    yield from (rate for rate in (0.0, first) if rate not in tried)
    while len(tried) <= MOST:  # 0 is no trial
        below, above = _nearly_as_good(tried) / FACTOR, _lowest(tried) * FACTOR
        rate = next((rate for rate in (below, above) if not _has(tried, rate)), None)
        if rate is None:
            return
        yield float(f"{rate:.3g}")


def best_rate(tried: Mapping[float, float]) -> float:
    """The lowest rate whose gain over rate 0 is :data:`NEARLY` the best one's, to two digits; the lowest where none gains anything.

    Between two that were tried, gains are taken to be linear in the rate's logarithm.
    """
    gains, above = _gains(tried), _nearly_as_good(tried)
    wanted, below = NEARLY * max(gains.values()), max((rate for rate in gains if rate < above), default=above)
    if gains[above] <= 0 or not -math.inf < gains[below] < wanted:
        return above
    share = (wanted - gains[below]) / (gains[above] - gains[below])
    return float(f"{below * (above / below) ** share:.1e}")


def _nearly_as_good(tried: Mapping[float, float]) -> float:
    """The lowest rate tried that gains :data:`NEARLY` as much as the best; the lowest where none gains anything."""
    gains = _gains(tried)
    most = max(gains.values())
    return min(rate for rate, gain in gains.items() if most <= 0 or gain >= NEARLY * most)


def _gains(tried: Mapping[float, float]) -> dict[float, float]:
    return {rate: tried[0.0] - score for rate, score in tried.items() if rate > 0}


def _lowest(tried: Mapping[float, float]) -> float:
    return min((rate for rate in tried if rate > 0), key=lambda rate: (tried[rate], rate))


def _has(tried: Mapping[float, float], rate: float) -> bool:
    return any(math.isclose(rate, other, rel_tol=0.01) for other in tried)


def _try(
    model: PreTrainedModel,
    sequences: np.ndarray,
    validation: Validation,
    recipe: Recipe,
    runtime: Runtime,
    state: Path,
    teacher: Teacher | None,
) -> float:
    """Bits per byte on a part of the validation text after a run of a few steps, from warm-up to the cosine's end."""
    whole = recipe.steps(len(sequences) * recipe.sequence_length)
    steps = min(whole, max(LEAST_STEPS, round(SHARE_OF_STEPS * whole)))
    set_trainable(model, recipe)
    plain = Plain(model)
    if recipe.learning_rate:
        train(model, sequences, recipe, runtime, state, steps, teacher)
    with deterministic(), plain.whole() as tuned:
        tuned.eval()
        number = _documents(validation)
        result = language_modeling.score(
            tuned,
            validation.tokenizer,
            validation.texts[:number],
            spans=None if validation.spans is None else validation.spans[:number],
            sequence_length=validation.sequence_length,
            batch_tokens=runtime.batch_tokens,
        )
    return result.span_bits_per_byte if math.isfinite(result.span_bits_per_byte) else math.inf


def train(
    model: PreTrainedModel,
    sequences: np.ndarray,
    recipe: Recipe,
    runtime: Runtime,
    state: Path,
    steps: int,
    teacher: Teacher | None = None,
) -> None:
    """Tune what is trainable of an fp32 ``model`` in place, on ``steps`` steps from warm-up to the cosine's end, and nothing else.

    ``state`` is a folder that the Trainer may use.
    """
    with deterministic():
        arguments = training_arguments(recipe, runtime, steps, state, recurrent=is_recurrent(model))
        data = PackedSequences(sequences, steps * recipe.batch_size, recipe.seed)
        trainer = FusedTrainer(model, arguments, data_collator=collate, train_dataset=data)
        trainer.teacher = None if teacher is None else teacher.to(arguments.device)
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def _documents(validation: Validation) -> int:
    """How many of the first documents of the validation text have :data:`CHARACTERS` between them."""
    return int(np.searchsorted(np.cumsum([len(text) for text in validation.texts]), CHARACTERS)) + 1
