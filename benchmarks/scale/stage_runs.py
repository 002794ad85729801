"""One stand-in model's files, and the pipeline's stages run on them, each in a process of its own, beside its imports alone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import yaml

from benchmarks.scale.processes import RECORDED, ROOT, Usage, imports_of, run_module, watch
from benchmarks.scale.real_models import RealModel, make
from minigpts import artifacts
from minigpts.model.weights import read_arrays
from minigpts.profiling.statistics import Statistics


class StageRuns:
    """One model's files under ``folder``, and the stages run on them."""

    def __init__(self, model: RealModel, folder: Path) -> None:
        """Makes the checkpoint, text, counts and statistics."""
        self.folder = folder
        make(model, folder)

    def arguments(self, stage: str, out: str) -> list[str | Path]:
        """The stage's command line but for its params; ``out`` names the folder or file it writes."""
        folder = self.folder
        given: dict[str, dict[str, Path]] = {
            "profile_activations": {"model": folder / "base", "text": folder / "text.parquet"},
            "prune_neurons": {
                "model": folder / "base",
                "stats": folder / "stats.safetensors",
                "text": folder / "text.parquet",
                "metrics": folder / "neurons.json",
                "widths": folder / "widths.csv",
            },
            "prune_embeddings": {
                "model": folder / "neurons",
                "counts": folder / "counts.parquet",
                "metrics": folder / "embeddings.json",
            },
            "evaluate": {
                "model": folder / "base",
                "base": folder / "base",
                "validation": folder / "short.parquet",
                "test": folder / "text.parquet",
                "questions": folder / "questions.jsonl",
                "replies": folder / "replies.json",
            },
            "export": {
                "model": folder / "pruned",
                "plan": folder / "plan.json",
                "text": folder / "text.parquet",
                "train": folder / "text.parquet",
                "parent": folder / "scores.json",
                "child": folder / "scores.json",
                "tuned-parent": folder / "skipped.json",
                "dataset": folder / "dataset.json",
                "metrics": folder / "export.json",
            },
            "finetune": {
                "model": folder / "pruned",
                "train": folder / "text.parquet",
                "validation": folder / "short.parquet",
                "parent": folder / "parent.json",
                "metrics": folder / "finetune.json",
                "curve": folder / "curve.csv",
                "scratch": folder / "scratch",
            },
        }
        flags = {**given[stage], "metrics" if stage == "evaluate" else "out": folder / out}
        return [part for name, path in flags.items() for part in (f"--{name}", path)]

    def params(self, refit: str) -> Path:
        """The project's params with the cut of this benchmark, and as little text per step as memory is judged by."""
        settings = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        # 40 % of the neurons, up to the rounding of widths.
        profile = Statistics(read_arrays(self.folder / "stats.safetensors"))
        means = np.concatenate(profile.mean_abs_by_layer())
        settings["threshold"] = float(np.quantile(means, 0.4))
        settings["prune_neurons"] |= {
            "allocation": "uniform",
            "refit": refit,
            "sequence_length": 256,
        }
        settings["embedding_threshold"] = 0.0
        settings["profile"]["sequence_length"] = 256
        settings["runtime"]["batch_tokens"] = 256
        settings["evaluate"]["sequence_length"] = 256
        settings["speech"]["tokens"] = 0
        settings["export"] |= {"formats": ["gguf"], "tokens": 512, "scale_tokens": 0}
        settings["finetune"] |= {"batch_size": 1, "sequence_length": 256, "max_tokens": 256, "stop": "budget", "evaluations": 1}
        path = self.folder / f"{refit}.yaml"
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return path

    def run(self, stage: str, out: str, refit: str = "none", runner: str = RECORDED) -> Usage:
        """The stage in a process of its own, as the code ``runner`` runs it; what it wrote before is deleted first."""
        arguments = [*self.arguments(stage, out), "--params", self.params(refit)]
        _delete(self.folder / out)
        return run_module(f"stages.{stage}", arguments, self._modules(stage), runner)

    def imports(self, stage: str) -> Usage:
        """The imports of the stage as it last ran, alone."""
        return imports_of(self._modules(stage))

    def copy(self, source: str) -> Usage:
        """`cp -r` of a checkpoint folder, without the file system's clones."""
        _delete(self.folder / "copy")
        usage = watch(["cp", "-r", "--reflink=never", self.folder / source, self.folder / "copy"])
        shutil.rmtree(self.folder / "copy")  # before it costs the disk anything
        return usage

    def _modules(self, stage: str) -> Path:
        return self.folder / f"{stage}.modules.json"

    def smaller_text(self, num_words: int) -> None:
        """Cut the text to so many words for profile and refit, and write what finetune needs besides."""
        texts = artifacts.read_table(self.folder / "text.parquet", ["text"])["text"]
        words = " ".join(texts).split()[:num_words]
        artifacts.write_table(self.folder / "text.parquet", {"text": [" ".join(words)]})
        artifacts.write_table(self.folder / "short.parquet", {"text": [" ".join(words[:50])]})
        artifacts.write_json(self.folder / "parent.json", {"validation_bits_per_byte": 1.0})


def _delete(path: Path) -> None:
    """Remove a file or folder and let the disk come to rest, so that no command pays for the one before."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    os.sync()
