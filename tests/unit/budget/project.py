"""A tiny parent with everything that the plan stage reads, and the stages that plan and cut, run as `dvc repro` runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from minigpts import artifacts
from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from minigpts.model.weights import write_tensors
from minigpts.profiling.recorder import profile
from minigpts.vocabulary.counts import count_tokens, write_counts
from stages import check_budget, measure_damage, plan_budget, prune_embeddings, prune_neurons
from tests import tiny

LENGTH = 32
REPOSITORY = yaml.safe_load((Path(__file__).resolve().parents[3] / "params.yaml").read_text(encoding="utf-8"))
TEXTS = tiny.sentences(48)
SECTIONS: dict[str, Any] = {
    "threshold": 0.0,
    "embedding_threshold": 0.0,
    "budget": {"target_size_reduction": None, "target_megabytes": None, "precisions": ["IQ4_NL", "Q8_0"], "trial_tokens": 0},
    "damage": {"tokens": 1200},
    "prune_neurons": {
        "criterion": "wanda",
        "allocation": "uniform",
        "multiple_of": 32,
        "refit": "none",
        "linear_threshold": None,
        "experts": 0,
        "expert_criterion": "contribution",
        "heads": 0,
        "layers": 0,
        "sequence_length": LENGTH,
        "seed": 0,
    },
    "finetune": {**REPOSITORY["finetune"], "sequence_length": LENGTH, "max_tokens": 1024, "learning_rate": 0.001},
    "model": REPOSITORY["model"],
    "dataset": REPOSITORY["dataset"],
    "precision": REPOSITORY["precision"],
    "export": {"formats": [], "tokens": 512, "scale_tokens": 0},
    "runtime": {"batch_tokens": 512, "num_threads": None, "launcher": None},
}


class Project:
    """Folder with a parent of a family, its profile, counts (of half the texts, so that some tokens never occur) and text."""

    def __init__(self, folder: Path, family: str = "llama", **changes: Any) -> None:
        self.folder, self.base = folder, tiny.write_checkpoint(folder / "base", family, **changes)
        model = checkpoint.load_model(self.base, torch.float32)
        tokenizer = checkpoint.load_fast_tokenizer(self.base)
        ids = torch.tensor([tokenizer.encode(text).ids[:16] for text in TEXTS])
        write_tensors(folder / "stats.safetensors", profile(model, spec_for(family), ids))
        write_counts(folder / "counts.parquet", tokenizer, count_tokens(tokenizer, TEXTS[:24]))
        artifacts.write_table(folder / "text.parquet", {"text": TEXTS})
        self.sizes = checkpoint.sizes(self.base)

    def plan(self, budget: dict[str, Any], **cutting: Any) -> dict[str, Any]:
        """What the three stages of the budget plan; None without a target."""
        self.write_params(budget, **cutting)
        self.run(check_budget, "base", "budget_checked")
        self.run(measure_damage, "budget", "base", "stats", "counts", "text", "curves")
        self.run(plan_budget, "base", "stats", "counts", "text", "train", "curves", "plan", "metrics", "table")
        return artifacts.read_json(self.folder / "plan.json")["plan"]

    def write_params(self, budget: dict[str, Any], export: dict[str, Any] = SECTIONS["export"], **cutting: Any) -> None:
        """What the stages run from now on are told."""
        sections = {**SECTIONS, "budget": {**SECTIONS["budget"], **budget}, "export": export}
        sections["prune_neurons"] = {**SECTIONS["prune_neurons"], **cutting}
        self.params = self.folder / "params.yaml"
        self.params.write_text(yaml.safe_dump(sections))

    def cut(self) -> Path:
        """The checkpoint that the two prune stages make of the plan."""
        self.run(prune_neurons, "base", "stats", "text", "plan", "neurons", "neurons_metrics", "widths")
        self.run(prune_embeddings, "neurons_model", "counts", "plan", "pruned", "pruned_metrics")
        return self.folder / "pruned"

    def run(self, stage: Any, *names: str) -> None:
        flags = {
            "base": ("model", "base"),
            "stats": ("stats", "stats.safetensors"),
            "counts": ("counts", "counts.parquet"),
            "text": ("text", "text.parquet"),
            "train": ("train", "text.parquet"),
            "budget_checked": ("out", "budget.json"),
            "budget": ("budget", "budget.json"),
            "curves": ("curves", "curves.json"),
            "plan": ("plan", "plan.json"),
            "metrics": ("metrics", "plan_metrics.json"),
            "table": ("table", "plan.csv"),
            "neurons": ("out", "neurons"),
            "neurons_metrics": ("metrics", "neurons.json"),
            "widths": ("widths", "widths.csv"),
            "neurons_model": ("model", "neurons"),
            "pruned": ("out", "pruned"),
            "pruned_metrics": ("metrics", "pruned.json"),
        }
        paths = [(flags[name][0], self.folder / flags[name][1]) for name in names]
        stage.main([text for flag, path in [*paths, ("params", self.params)] for text in (f"--{flag}", str(path))])
