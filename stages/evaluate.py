"""Measure a checkpoint: how well it predicts held-out text, answers held-out questions and speaks, and how large it is."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minigpts import artifacts, params, ranks
from minigpts.evaluation.params import EvaluateParams
from minigpts.evaluation.speech.params import SpeechParams
from minigpts.model import checkpoint
from minigpts.model.weights import StoredWeights, Weights, num_parameters

Params = EvaluateParams  # the evaluate section

FLAGS = {
    "model": "the checkpoint folder to measure",
    "base": "the checkpoint folder it came from, to compare with",
    "validation": "validation text, parquet",
    "test": "test text, parquet",
    "questions": "multiple-choice questions, jsonl",
    "metrics": "where to write the metrics, json",
    "replies": "where to write what it says, json",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure a checkpoint."""
    arguments = params.flags(argv, __doc__, FLAGS)
    run(arguments, arguments.model, StoredWeights)


def run(arguments: argparse.Namespace, written: Path, weights_of: Callable[[Path], Weights], file: Path | None = None) -> None:
    """Score the model a layer at a time, let all of it speak, in fp32 whatever the machine, and write its metrics and replies.

    Both are empty where ``written`` was skipped, the replies also where speech isn't measured.
    ``weights_of`` a checkpoint folder are the model's; ``file`` holds them where it isn't the folder's own.
    evaluate_exported runs this too.
    """
    settings = params.read(arguments.params, Params, "evaluate")
    speech = params.read(arguments.params, SpeechParams, "speech")
    machine = params.read(arguments.params, params.Runtime, "runtime")
    if (written / checkpoint.SKIPPED).exists():
        for out in (arguments.metrics, arguments.replies) if ranks.is_main() else ():
            artifacts.write_json(out, {})
        return
    texts = {split: artifacts.read_table(getattr(arguments, split), ["text"])["text"] for split in ("validation", "test")}
    questions = artifacts.read_jsonl(arguments.questions)
    template = settings.template(arguments.model)

    import torch

    from minigpts.evaluation.metrics import accuracy_metrics, size_metrics, text_metrics
    from minigpts.evaluation.speech.measure import measure
    from minigpts.model.device import computed_on, device, require_memory
    from minigpts.model.streaming import StreamedModel

    where, weights = device(machine), weights_of(arguments.model)
    if speech.tokens:
        whole = 4 * num_parameters(StoredWeights(arguments.model).shapes)
        require_memory(whole, where, "speaking", "set speech.tokens to 0")
    model = StreamedModel(arguments.model, where, weights)
    tokenizer = checkpoint.load_fast_tokenizer(arguments.model)
    base_tokenizer = checkpoint.load_fast_tokenizer(arguments.base)
    limits = {"sequence_length": settings.sequence_length, "batch_tokens": machine.batch_tokens}
    spans = {split: artifacts.read_table(getattr(arguments, split), [], ["loss_spans"])["loss_spans"] for split in texts}
    metrics = {
        **text_metrics(model, tokenizer, base_tokenizer, texts, **limits, spans=spans),
        **accuracy_metrics(model, tokenizer, questions, batch_tokens=machine.batch_tokens, template=template),
        **size_metrics(arguments.model, arguments.base),
        "computed_on": computed_on(where),
    }
    if file is not None:
        metrics["checkpoint_bytes"] = file.stat().st_size
        metrics["num_nonzero_parameters"] = sum(int(tensor.count_nonzero()) for tensor in weights.values())
    said: dict[str, Any] = {}
    if speech.tokens:
        speaker, documents, batches = checkpoint.load_tokenizer(arguments.model), texts["test"], machine.batch_tokens
        speaking = checkpoint.load_model(arguments.model, torch.float32, weights.items()).to(where)
        metrics["speech"], said = measure(speaking, speaker, documents, spans["test"], speech.tokens, batch_tokens=batches)
    if ranks.is_main():
        artifacts.write_json(arguments.replies, said)
        artifacts.write_json(arguments.metrics, metrics)


if __name__ == "__main__":
    ranks.launch(main)
