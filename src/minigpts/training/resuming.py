"""Trainer state that survives a SIGKILL, and is only ever picked up by the very run it belongs to.

A state folder is named by the fingerprint of all that decides the result. In it lie what the trials of learning rates gave,
the Trainer's own checkpoints, each complete once it holds the curve up to its step (written last, atomically), and the best
weights so far, named by step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import minigpts
from minigpts import artifacts
from minigpts.training.recipe import Evaluation, best

CURVE = "curve.jsonl"
TRIALS = "trials.jsonl"


def fingerprint(params: Mapping[str, Any], inputs: Iterable[Path]) -> str:
    """A name for the run: sha256 over its params, the bytes of its input files and folders, the package and its libraries.

    The whole package is in it, since packing, evaluation and checkpoints decide a run as much as training's own code does.
    """
    digest = hashlib.sha256(json.dumps(params, sort_keys=True).encode())
    for name in ("torch", "transformers", "accelerate", "peft"):
        with suppress(PackageNotFoundError):  # peft is an extra
            digest.update(f"{name}=={version(name)}".encode())
    for path in (*inputs, Path(minigpts.__file__).parent):
        files = sorted(file for file in path.rglob("*") if file.suffix != ".pyc") if path.is_dir() else [path]
        for file in filter(Path.is_file, files):
            with file.open("rb") as stream:
                digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:32]


def best_weights(state: Path, step: int) -> Path:
    """Where the weights of the best evaluation so far lie, if that was after ``step``."""
    return state / f"best-{step}.safetensors"


def newest_checkpoint(state: Path) -> Path | None:
    """The complete checkpoint with the most steps."""
    complete = [marker.parent for marker in state.glob(f"checkpoint-*/{CURVE}")]
    return max(complete, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)


def read_curve(checkpoint: Path) -> list[Evaluation]:
    """The evaluations up to a complete checkpoint."""
    return [Evaluation(**row) for row in artifacts.read_jsonl(checkpoint / CURVE)]


def read_trials(state: Path) -> dict[float, float]:
    """The learning rates tried so far, and the validation bits per byte after each one's trial."""
    path = state / TRIALS
    return {row["learning_rate"]: row["bits_per_byte"] for row in artifacts.read_jsonl(path)} if path.exists() else {}


def write_trials(state: Path, tried: Mapping[float, float]) -> None:
    """Keep, to the bit, what :func:`read_trials` gives."""
    artifacts.write_jsonl(state / TRIALS, [{"learning_rate": rate, "bits_per_byte": score} for rate, score in tried.items()])


def complete(checkpoint: Path, curve: Sequence[Evaluation]) -> None:
    """Declare a written checkpoint whole; then remove what it replaces: older ones, and weights no longer best."""
    artifacts.write_jsonl(checkpoint / CURVE, [asdict(point) for point in curve])
    keep = {checkpoint, best_weights(checkpoint.parent, best(curve).step), checkpoint.parent / TRIALS}
    for path in set(checkpoint.parent.iterdir()) - keep:
        artifacts.discard(path)
