"""Measure a checkpoint: how well it predicts held-out text and answers held-out questions, and how large it is."""

from __future__ import annotations

from collections.abc import Sequence

from minigpts import artifacts, params
from minigpts.errors import exit_cleanly
from minigpts.evaluation.params import EvaluateParams
from minigpts.model import checkpoint

Params = EvaluateParams  # the evaluate section

FLAGS = {
    "model": "the checkpoint folder to measure",
    "base": "the checkpoint folder it came from, to compare with",
    "validation": "validation text, parquet",
    "test": "test text, parquet",
    "questions": "multiple-choice questions, jsonl",
    "metrics": "where to write the metrics, json",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Load the checkpoint as anyone would, in fp32 whatever the machine, and write its metrics; none of one that was skipped."""
    arguments = params.flags(argv, __doc__, FLAGS)
    settings = params.read(arguments.params, Params, "evaluate")
    machine = params.read(arguments.params, params.Runtime, "runtime")
    if (arguments.model / checkpoint.SKIPPED).exists():
        artifacts.write_json(arguments.metrics, {})
        return
    texts = {split: artifacts.read_table(getattr(arguments, split), ["text"])["text"] for split in ("validation", "test")}
    questions = artifacts.read_jsonl(arguments.questions)

    import torch

    from minigpts.evaluation.metrics import accuracy_metrics, size_metrics, text_metrics
    from minigpts.model.device import computed_on, device

    where = device(machine)
    model = checkpoint.load_model(arguments.model, torch.float32).to(where)
    tokenizer = checkpoint.load_fast_tokenizer(arguments.model)
    base_tokenizer = checkpoint.load_fast_tokenizer(arguments.base)
    limits = {"sequence_length": settings.sequence_length, "batch_tokens": machine.batch_tokens}
    metrics = {
        **text_metrics(model, tokenizer, base_tokenizer, texts, **limits),
        **accuracy_metrics(model, tokenizer, questions, batch_tokens=machine.batch_tokens),
        **size_metrics(arguments.model, arguments.base),
        "computed_on": computed_on(where),
    }
    artifacts.write_json(arguments.metrics, metrics)


if __name__ == "__main__":
    exit_cleanly(main)
