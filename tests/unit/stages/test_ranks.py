"""Several processes at a stage give what one gives, end together, and leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from minigpts import artifacts, ranks
from minigpts.training import probe
from stages import count_tokens, evaluate, finetune, profile_activations
from tests import tiny
from tests.unit.stages.finetune_killed import before_call
from tests.unit.stages.test_finetune import RECIPE

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="these processes are on CPUs, and NCCL takes one a GPU")

STEPS = 20
SECTIONS = {
    "profile": {"sequence_length": 32, "all_linear": True, "gradient_tokens": 640},
    "evaluate": {"sequence_length": 64, "chat": False},
    "speech": {"tokens": 5},
    "finetune": {**RECIPE, "max_tokens": STEPS * 4 * 24},
    "runtime": {"batch_tokens": 160, "num_threads": 1, "launcher": None},
}


def write_inputs(folder: Path, family: str = "llama", model: dict[str, Any] | None = None, **recipe: object) -> Path:
    """A checkpoint, texts, questions and params for all of the stages."""
    tiny.write_checkpoint(folder / "model", family, dtype=torch.bfloat16, **(model or {"num_hidden_layers": 2}))
    for split, count in {"train": 40, "calibration": 60, "validation": 9, "test": 12}.items():
        artifacts.write_table(folder / f"{split}.parquet", {"text": tiny.sentences(count, seed=count)})
    questions = [
        {"question": f"Where is {word}?", "choices": tiny.WORDS[:4], "answer": row % 4, "split": ("test", "validation")[row % 2]}
        for row, word in enumerate(tiny.WORDS)
    ]
    artifacts.write_jsonl(folder / "mcq.jsonl", questions)
    artifacts.write_json(folder / "base.json", {"validation_bits_per_byte": 1.0})
    sections = {**SECTIONS, "finetune": {**SECTIONS["finetune"], **recipe}}
    (folder / "params.yaml").write_text(yaml.safe_dump(sections))
    return folder


def flags(inputs: Path, out: Path, given: dict[str, str], written: dict[str, str]) -> list[str]:
    """A stage's flags: its params, and by name what it is given and writes."""
    paths = {"params": inputs / "params.yaml"}
    paths |= {name: inputs / path for name, path in given.items()} | {name: out / path for name, path in written.items()}
    return [text for name, path in paths.items() for text in (f"--{name}", str(path))]


def measure(out: Path) -> None:
    """Profile with gradients, count, and evaluate."""
    inputs = out.parent
    given = {"model": "model", "text": "calibration.parquet"}
    profile_activations.main(flags(inputs, out, given, {"out": "stats.safetensors"}))
    given = {"tokenizer": "model/tokenizer.json", "text": "train.parquet"}
    count_tokens.main(flags(inputs, out, given, {"out": "counts.parquet"}))
    given = {
        "model": "model",
        "base": "model",
        "validation": "validation.parquet",
        "test": "test.parquet",
        "questions": "mcq.jsonl",
    }
    evaluate.main(flags(inputs, out, given, {"metrics": "metrics.json", "replies": "replies.json"}))


def tune(out: Path) -> None:
    """Fine-tune."""
    given = {"model": "model", "train": "train.parquet", "validation": "validation.parquet", "parent": "base.json"}
    written = {"out": "tuned", "metrics": "finetune.json", "curve": "recovery.csv", "scratch": "scratch"}
    finetune.main(flags(out.parent, out, {**given, "questions": "mcq.jsonl"}, written))


def tune_sharded(out: Path) -> None:
    """The same with its parameters in shards, as ``accelerate launch --use_fsdp`` asks for."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    made = PartialState.__init__

    def on_accelerators(self: PartialState, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU  # accelerate takes FSDP for GPUs alone; torch doesn't

    PartialState.__init__ = on_accelerators
    shards = {
        "USE_FSDP": "true",
        "AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "STATE_DICT_TYPE": "SHARDED_STATE_DICT",
        "VERSION": "2",
    }
    os.environ.update({f"{'ACCELERATE' if name == 'USE_FSDP' else 'FSDP'}_{name}": value for name, value in shards.items()})
    tune(out)


def killed(work: Callable[[Path], None], out: Path) -> None:
    """The work, in which the second process is killed in a step behind the first checkpoint."""
    if ranks.number() == 1:
        before_call("transformers:Trainer.training_step", lambda call: os.kill(os.getpid(), signal.SIGKILL) if call == 10 else None)
    work(out)


tune_killed, tune_sharded_killed = partial(killed, tune), partial(killed, tune_sharded)


def ruin(work: Callable[[Path], None], out: Path) -> None:
    """The work at a learning rate that does harm, found by two trials: the run falls back to its best weights."""
    probe.START, probe.MOST = 40, 2
    work(out)


tune_ruined, tune_sharded_ruined = partial(ruin, tune), partial(ruin, tune_sharded)


def refuse_on_one(out: Path) -> None:
    """A mistake of the user's that the second process alone sees, while the first waits for it."""
    from minigpts.errors import UserError

    def work(item: int) -> int:
        if item == 1:
            raise UserError("disk b: full")
        return item

    list(ranks.in_order(range(4), work))


def in_processes(folder: Path, *pieces: str) -> list[list[int]]:
    """Exit codes of the pieces ``function:number:name`` of this module; see forked_ranks."""
    command = [sys.executable, "-m", "tests.unit.stages.forked_ranks", str(folder), *(f"{__name__}:{piece}" for piece in pieces)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_tuned_alike(folder: Path, other: Path, rel: float = 1e-5) -> None:
    """The same curve, and weights that differ by a last digit of bf16 at most."""
    curve, expected = artifacts.read_csv(folder / "recovery.csv"), artifacts.read_csv(other / "recovery.csv")
    assert [row["step"] for row in curve] == [row["step"] for row in expected] == ["0", "7", "13", str(STEPS)]
    for row, wanted in zip(curve, expected, strict=True):
        for column in ("validation_bits_per_byte", "validation_acc", "validation_acc_norm", "train_loss"):
            assert float(row[column] or 0) == pytest.approx(float(wanted[column] or 0), rel=rel), column
    weights, wanted_weights = (load_file(of / "tuned/model.safetensors") for of in (folder, other))
    assert weights.keys() == wanted_weights.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, wanted_weights[name], rtol=2**-7, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_statistics_counts_and_metrics_are_the_same_bytes(tmp_path: Path, family: str) -> None:
    write_inputs(tmp_path, family)
    assert in_processes(tmp_path, "measure:1:one", "measure:2:two", "measure:4:four") == [[0], [0] * 2, [0] * 4]
    one = files(tmp_path / "one")
    assert one.keys() == {"stats.safetensors", "counts.parquet", "metrics.json", "replies.json"}
    assert files(tmp_path / "two") == files(tmp_path / "four") == one


def test_tuning_takes_the_steps_of_one_process_and_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    pieces = (
        "tune:1:one",
        "tune:2:two",
        "tune:4:four",
        "tune_killed:2:killed",
        "tune:2:killed",
        "tune:3:three",
        "refuse_on_one:2:b",
    )
    ended = in_processes(tmp_path, *pieces)
    assert ended == [[0], [0] * 2, [0] * 4, [1, -signal.SIGKILL], [0] * 2, [1] * 3, [1] * 2]
    for number in ("two", "four"):
        assert_tuned_alike(tmp_path / number, tmp_path / "one")
    assert files(tmp_path / "killed") == files(tmp_path / "two")
    assert (
        (tmp_path / "three.error")
        .read_text()
        .strip()
        .startswith("error: params.yaml: finetune.batch_size 4 can't be shared among the 3")
    )
    assert (tmp_path / "b.error").read_text().strip() == "error: disk b: full"
    assert not (tmp_path / "killed.error").exists()  # of which the launcher knows


@pytest.mark.parametrize("variant", ["uneven", "qwen3_moe"])
def test_sharded_parameters_end_as_whole_ones_and_go_on_where_they_were_killed(tmp_path: Path, variant: str) -> None:
    if variant == "uneven":
        write_inputs(tmp_path, model={"intermediate_sizes": [77, 31, 52]}, freeze_embeddings=True)
    else:
        write_inputs(tmp_path, variant)
    pieces = ("tune:1:one", "tune_sharded:2:two", "tune_sharded_killed:2:killed", "tune_sharded:2:killed")
    assert in_processes(tmp_path, *pieces) == [[0], [0] * 2, [1, -signal.SIGKILL], [0] * 2]
    assert_tuned_alike(tmp_path / "two", tmp_path / "one")
    assert files(tmp_path / "killed") == files(tmp_path / "two")


def test_sharded_parameters_fall_back_to_the_best_weights(tmp_path: Path) -> None:
    write_inputs(tmp_path, learning_rate=None)
    assert in_processes(tmp_path, "tune_ruined:1:one", "tune_sharded_ruined:2:two") == [[0], [0] * 2]
    one, two = (artifacts.read_json(tmp_path / name / "finetune.json") for name in ("one", "two"))
    assert one["learning_rate_falls"] == two["learning_rate_falls"] > 0
    # At rates like these a last digit grows; without the way back both would be worse than before tuning.
    best, expected = two["validation_bits_per_byte_best"], one["validation_bits_per_byte_best"]
    assert best == pytest.approx(expected, rel=0.1) and best < 0.6 * two["validation_bits_per_byte_before"]
