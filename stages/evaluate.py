"""Measure a checkpoint: how well it predicts held-out text and answers held-out questions, and how large it is."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from minigpts import artifacts, params
from minigpts.errors import exit_cleanly
from minigpts.evaluation.params import EvaluateParams
from minigpts.model import checkpoint

Params = EvaluateParams  # the evaluate section


def main(argv: Sequence[str] | None = None) -> None:
    """Load the checkpoint as anyone would, in fp32 whatever the machine, and write its metrics; none of one that was skipped."""
    arguments = _parser().parse_args(argv)
    settings = params.read(arguments.params, Params, "evaluate")
    machine = params.read(arguments.params, params.Runtime, "runtime")
    if (arguments.model / checkpoint.SKIPPED).exists():
        artifacts.write_json(arguments.metrics, {})
        return
    texts = {split: artifacts.read_table(getattr(arguments, split), ["text"])["text"] for split in ("validation", "test")}
    questions = artifacts.read_jsonl(arguments.questions)

    import torch

    from minigpts.evaluation.metrics import accuracy_metrics, size_metrics, text_metrics
    from minigpts.model import device

    model = checkpoint.load_model(arguments.model, torch.float32).to(device.device(machine))
    tokenizer = checkpoint.load_fast_tokenizer(arguments.model)
    base_tokenizer = checkpoint.load_fast_tokenizer(arguments.base)
    limits = {"sequence_length": settings.sequence_length, "batch_tokens": machine.batch_tokens}
    metrics = {
        **text_metrics(model, tokenizer, base_tokenizer, texts, **limits),
        **accuracy_metrics(model, tokenizer, questions, batch_tokens=machine.batch_tokens),
        **size_metrics(arguments.model, arguments.base),
    }
    artifacts.write_json(arguments.metrics, metrics)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the checkpoint folder to measure")
    parser.add_argument("--base", type=Path, required=True, help="the checkpoint folder it came from, to compare with")
    parser.add_argument("--validation", type=Path, required=True, help="validation text, parquet")
    parser.add_argument("--test", type=Path, required=True, help="test text, parquet")
    parser.add_argument("--questions", type=Path, required=True, help="multiple-choice questions, jsonl")
    parser.add_argument("--metrics", type=Path, required=True, help="where to write the metrics, json")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: %(default)s")
    return parser


if __name__ == "__main__":
    exit_cleanly(main)
