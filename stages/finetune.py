"""Tune the pruned model on the domain's text until it has recovered: load, pack, tune, save the best on validation."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpts import artifacts, params, ranks
from minigpts.errors import UserError
from minigpts.evaluation.params import EvaluateParams
from minigpts.model import checkpoint
from minigpts.model.weights import StoredWeights, read_tensors
from minigpts.training import recipe, resuming

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from minigpts.training.trainer import Recovery

Params = recipe.Recipe  # the finetune section

FLAGS = {
    "model": "the pruned checkpoint",
    "train": "parquet of training text",
    "validation": "parquet of validation text",
    "parent": "metrics of the parent; recovery is to its validation_bits_per_byte",
    "out": "checkpoint to write",
    "metrics": "json to write",
    "curve": "csv to write",
}
OPTIONAL = {
    "questions": "jsonl of questions; those of split validation are watched, too",
    "general": "parquet of the user's general text, for finetune.general: text",
    "written": "parquet of the general text that the parent wrote, for finetune.general: parent",
    "teacher": "checkpoint to distil from; without it nothing is, whatever the params say",
    "scratch": "where an interrupted run is resumed from",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    args = params.flags(argv, __doc__, FLAGS, OPTIONAL)
    run(args, Path(".scratch/finetune"), args.teacher)


def run(args: argparse.Namespace, default_scratch: Path, author: Path | None) -> None:
    """Tune what the flags name by the params they name; tune_parent runs it too.

    ``author`` is the checkpoint that wrote the general text of finetune.general: parent.
    """
    scratch = args.scratch or default_scratch
    settings = params.read(args.params, Params, "finetune")
    evaluation = params.read(args.params, EvaluateParams, "evaluate")
    runtime = params.read(args.params, params.Runtime, "runtime")
    parent = recipe.read_parent(args.parent)
    questions = [row for row in artifacts.read_jsonl(args.questions) if row["split"] == "validation"] if args.questions else []
    template = evaluation.template(args.model)
    teacher = _teacher(args, settings, author)
    general_text = {"text": args.general, "parent": args.written, None: None}[settings.general]

    import torch

    from minigpts.model import packing
    from minigpts.model.device import computed_on, device
    from minigpts.training import data, distillation, memory, probe, trainer

    where, stored = device(runtime), StoredWeights(args.model)
    machine, config, dtype = computed_on(where), checkpoint.load_config(args.model), stored.dtype
    memory.require_fit(settings, config.model_type, stored.shapes, where)
    packing.require_positions(config, settings.sequence_length, "finetune.sequence_length")
    tokenizer, general = checkpoint.load_fast_tokenizer(args.model), data.read_general(general_text, settings.general)
    train, spans = data.read_text(args.train)
    sequences, share = data.draw_sequences(tokenizer, train, packing.boundaries(tokenizer, config), settings, general, spans)
    identity = {"finetune": asdict(settings), "evaluate": asdict(evaluation), "runtime": asdict(runtime), "computed_on": machine}
    inputs = [args.model, args.train, args.validation, args.parent, args.questions, general_text, teacher, Path(__file__)]
    state = scratch / resuming.fingerprint(identity, filter(None, inputs))
    texts, asked = data.read_text(args.validation)
    watched = trainer.Validation(tokenizer, texts, evaluation.sequence_length, parent, asked, questions, template)
    distilled = settings.distillation if args.teacher else 0.0
    of_general = 1.0 if settings.general == "parent" else distilled
    teaching = distillation.load_teacher(teacher, args.model, distilled, of_general) if teacher else None
    rate, tried = settings.learning_rate, dict[float, float]()
    if rate is None:
        rate, tried = probe.find_rate(
            args.model, sequences, watched, recipe=settings, runtime=runtime, state=state, teacher=teaching
        )
    result = trainer.recover(
        checkpoint.load_model(args.model, torch.float32),
        sequences,
        watched,
        recipe=replace(settings, learning_rate=rate),
        runtime=runtime,
        dtype=dtype,
        state=state,
        teacher=teaching,
        guarded=bool(tried),
    )
    if not ranks.is_main():
        return
    epochs = result.curve[-1].tokens / (len(sequences) * settings.sequence_length) * share  # every source at its own share
    summed_up = recipe.summary(result.curve, result.stop_reason, parent, epochs, rate, tried)
    _write(args, config, result, parent, {**summed_up, "computed_on": machine})
    artifacts.discard(scratch)
    for line in recipe.warnings(result.curve):
        print(f"warning: {line}", file=sys.stderr)


def _teacher(args: argparse.Namespace, settings: Params, author: Path | None) -> Path | None:
    """The checkpoint that the child learns from beside the text, if there is one. Raises UserError where it wasn't tuned."""
    teacher: Path | None = author if settings.general == "parent" else args.teacher if settings.distillation else None
    if teacher is not None and (teacher / checkpoint.SKIPPED).exists():
        raise UserError(f"params.yaml: finetune.teacher is {teacher.name}, which wasn't tuned; set tune_parent: true")
    return teacher


def _write(
    args: argparse.Namespace, config: PreTrainedConfig, result: Recovery, parent: recipe.Parent, metrics: Mapping[str, Any]
) -> None:
    """The tuned checkpoint, with the index maps of the pruned one, its curve and its metrics."""
    with checkpoint.saving(args.out, config, read_tensors(result.weights).items(), companions=args.model) as folder:
        for index_map in sorted(args.model.glob("*.parquet")):
            shutil.copyfile(index_map, folder / index_map.name)
    artifacts.write_csv(args.curve, recipe.curve_rows(result.curve, parent))
    artifacts.write_json(args.metrics, metrics)


if __name__ == "__main__":
    ranks.launch(main)
