"""Does our multiple-choice scorer agree with lm-evaluation-harness, question by question?

Needs the harness, which the project does without; in an environment of its own:

    pip install torch==2.13.0 && pip install 'lm_eval[hf]==0.4.13' transformers==5.23.0
    PYTHONPATH=src python -m benchmarks.parity.harness --limit 200
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

TASK = Path(__file__).resolve().parent / "harness_task" / "minigpts_mcq.yaml"


def main(argv: Sequence[str] | None = None) -> None:
    """Score the same questions with both and print how they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("data/checkpoints/base"), help="checkpoint folder; default: %(default)s")
    parser.add_argument("--questions", type=Path, default=Path("data/prepared/mcq.jsonl"), help="default: %(default)s")
    parser.add_argument("--limit", type=int, help="compare the first so many test questions only")
    parser.add_argument(
        "--chat", action="store_true", help="ask through the model's chat template: evaluate.chat, --apply_chat_template"
    )
    arguments = parser.parse_args(argv)
    if find_spec("lm_eval") is None:
        raise SystemExit("lm_eval is not installed here; `python -m benchmarks.parity.harness --help` says how to get it")
    theirs, samples = harness(arguments.model, arguments.questions, arguments.limit, arguments.chat)
    ours, scores = own(arguments.model, [sample["doc"] for sample in samples], arguments.chat)
    reference = [np.array([float(response[0]) for response in sample["filtered_resps"]]) for sample in samples]
    print(f"{len(samples)} questions, {arguments.model}")
    for name, value in ours.items():
        print(f"{name:16} ours {value:.10f}  lm_eval {theirs[name]:.10f}  difference {abs(value - theirs[name]):.1e}")
    pairs = list(zip(scores, reference, strict=True))
    print(f"largest difference of a log-likelihood: {max(np.abs(a - b).max() for a, b in pairs):.1e} nats")
    print(f"questions answered differently: {sum(a.argmax() != b.argmax() for a, b in pairs)}")


def harness(model: Path, questions: Path, limit: int | None, chat: bool) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """lm-evaluation-harness's metrics, by our names, and its record of each question."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder, "task.yaml")  # ours, on these questions; JSON is YAML
        task.write_text(json.dumps({"include": str(TASK), "dataset_kwargs": {"data_files": {"test": str(questions.resolve())}}}))
        result = simple_evaluate(
            model="hf",
            model_args={"pretrained": str(model), "dtype": "float32"},
            tasks=[str(task)],
            task_manager=TaskManager(include_defaults=False),
            limit=limit,
            apply_chat_template=chat,
            batch_size=16,
            device="cuda" if torch.cuda.is_available() else "cpu",
        )
    values = result["results"]["minigpts_mcq"]
    named = {name: values[f"{name},none"] for name in ("acc", "acc_stderr", "acc_norm", "acc_norm_stderr")}
    return named, sorted(result["samples"]["minigpts_mcq"], key=lambda sample: sample["doc_id"])


def own(directory: Path, questions: Sequence[dict[str, Any]], chat: bool) -> tuple[dict[str, float], list[np.ndarray]]:
    """Our metrics, and ln p of each choice of each question."""
    import torch

    from minigpts.evaluation import multiple_choice
    from minigpts.model import checkpoint
    from minigpts.model.chat_template import ChatTemplate

    template = ChatTemplate.of(directory) if chat else None
    model, tokenizer = checkpoint.load_model(directory, torch.float32), checkpoint.load_fast_tokenizer(directory)
    scores = multiple_choice.score(model, tokenizer, questions, batch_tokens=2048, template=template, progress="questions")
    return multiple_choice.accuracy(questions, scores), scores


if __name__ == "__main__":
    main()
