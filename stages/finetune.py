"""Tune the pruned model on the domain's text until it has recovered: load, pack, tune, save the best on validation."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from minigpts import artifacts, params
from minigpts.errors import exit_cleanly
from minigpts.evaluation.params import EvaluateParams
from minigpts.model.weights import StoredWeights, read_tensors
from minigpts.training import recipe, resuming

Params = recipe.Recipe  # the finetune section


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    run(parser(__doc__, Path(".scratch/finetune")).parse_args(argv))


def run(args: argparse.Namespace) -> None:
    """Tune what the flags name by the params they name; tune_parent runs it too."""
    settings = params.read(args.params, Params, "finetune")
    evaluation = params.read(args.params, EvaluateParams, "evaluate")
    runtime = params.read(args.params, params.Runtime, "runtime")
    parent = recipe.read_parent(args.parent)
    train, validation = (artifacts.read_table(path, ["text"])["text"] for path in (args.train, args.validation))
    questions = [row for row in artifacts.read_jsonl(args.questions) if row["split"] == "validation"] if args.questions else []
    teacher = args.teacher if settings.distillation > 0 else None

    import torch

    from minigpts.model import checkpoint, packing
    from minigpts.model.device import device
    from minigpts.training import data, distillation, probe, trainer

    device(runtime)
    config, dtype = checkpoint.load_config(args.model), StoredWeights(args.model).dtype
    packing.require_positions(config, settings.sequence_length, "finetune.sequence_length")
    tokenizer, general = checkpoint.load_fast_tokenizer(args.model), data.read_general_text(args.general, settings.general_share)
    sequences, share = data.draw_sequences(tokenizer, train, packing.boundaries(tokenizer, config), settings, general)
    identity = {"finetune": asdict(settings), "evaluate": asdict(evaluation), "general": general}
    inputs = [args.model, args.train, args.validation, args.parent, args.questions, teacher]
    state = args.scratch / resuming.fingerprint(identity, filter(None, inputs))
    watched = trainer.Validation(tokenizer, validation, evaluation.sequence_length, parent, questions)
    teaching = distillation.load_teacher(teacher, args.model, settings.distillation) if teacher else None
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
    if not result.is_main_process:
        return
    weights = read_tensors(result.weights)
    with checkpoint.saving(args.out, config, weights.items(), companions=args.model) as folder:
        for index_map in sorted(args.model.glob("*.parquet")):
            shutil.copyfile(index_map, folder / index_map.name)
    artifacts.write_csv(args.curve, recipe.curve_rows(result.curve, parent))
    epochs = result.curve[-1].tokens / (len(sequences) * settings.sequence_length) * share  # every source at its own share
    artifacts.write_json(args.metrics, recipe.summary(result.curve, result.stop_reason, parent, epochs, rate, tried))
    artifacts.discard(args.scratch)
    for line in recipe.warnings(result.curve):
        print(f"warning: {line}", file=sys.stderr)


def parser(description: str | None, scratch: Path) -> argparse.ArgumentParser:
    """The flags, which tune_parent shares."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", type=Path, required=True, help="the pruned checkpoint")
    parser.add_argument("--train", type=Path, required=True, help="parquet of training text")
    parser.add_argument("--validation", type=Path, required=True, help="parquet of validation text")
    parser.add_argument(
        "--parent", type=Path, required=True, help="metrics of the parent; recovery is to its validation_bits_per_byte"
    )
    parser.add_argument("--questions", type=Path, help="jsonl of questions; those of split validation are watched, too")
    parser.add_argument("--general", type=Path, help="parquet of general text, of which finetune.general_share of the rows are")
    parser.add_argument("--teacher", type=Path, help="checkpoint to distil from; without it nothing is, whatever the params say")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--metrics", type=Path, required=True, help="json to write")
    parser.add_argument("--curve", type=Path, required=True, help="csv to write")
    parser.add_argument("--scratch", type=Path, default=scratch, help="where an interrupted run is resumed from")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: %(default)s")
    return parser


if __name__ == "__main__":
    exit_cleanly(main)
