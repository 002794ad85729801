"""Pruning at the paper's models' real size: memory beyond the libraries, time over `cp`, and parameters to the last one.

python -m benchmarks.scale.real_size --model phi-1.5 [--folder …] [--real-profile] [--refit]

Every stage runs in a process of its own, as the pipeline runs it. What it needs beyond the interpreter and its libraries is told
by a second process, which imports the very modules that the stage had loaded when it ended, and ends. Linux alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.scale.processes import ROOT, Usage, imports_of, run_module, watch
from benchmarks.scale.real_models import MODELS, RealModel, make
from benchmarks.table import Row, print_rows
from minigpts import artifacts
from minigpts.model.weights import read_arrays
from minigpts.profiling.statistics import Statistics

RESULTS = ROOT / "benchmarks/results/real_size.csv"
CALIBRATION_TOKENS = 2048  # of the profile and of the refit
MB, GB = 10**6, 10**9

# What a user of the checkpoint does, with nothing of this project imported.
STOCK = """
import json, sys, torch
from transformers import AutoModelForCausalLM
model, report = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16, output_loading_info=True)
problems = {kind: sorted(map(str, report[kind])) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")}
print(json.dumps({"num_parameters": model.num_parameters(), **problems}))
"""


@dataclass(frozen=True)
class Measured:
    """A stage beside its imports alone, and, where it was timed, beside `cp -r` of the checkpoint it reads."""

    peak_rss: int
    beyond_imports: int
    anonymous_beyond_imports: int
    over_cp: float | None = None
    over_cp_without_imports: float | None = None


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
        flags = {**given[stage], "out": folder / out}
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
        settings["finetune"] |= {"batch_size": 1, "sequence_length": 256, "max_tokens": 256, "stop": "budget", "evaluations": 1}
        path = self.folder / f"{refit}.yaml"
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return path

    def run(self, stage: str, out: str, refit: str = "none") -> Usage:
        """The stage in a process of its own; what it wrote before is deleted first."""
        _delete(self.folder / out)
        arguments = [*self.arguments(stage, out), "--params", self.params(refit)]
        return run_module(f"stages.{stage}", arguments, self._modules(stage))

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

    def once(self, stage: str, out: str, refit: str = "none") -> Measured:
        """One run, for its memory."""
        return _measured([(self.run(stage, out, refit), self.imports(stage))])

    def timed(self, stage: str, source: str, out: str, repeats: int) -> Measured:
        """``repeats`` rounds of copying ``source``, the stage, and its imports alone, after a round that warms the page cache."""
        self.copy(source)
        self.run(stage, out)
        return _measured([(self.run(stage, out), self.imports(stage), self.copy(source)) for _ in range(repeats)])

    def smaller_text(self) -> None:
        """Cut the text to what profile and refit take, and write what finetune needs besides."""
        texts = artifacts.read_table(self.folder / "text.parquet", ["text"])["text"]
        words = " ".join(texts).split()[:CALIBRATION_TOKENS]  # a word is one token at least
        artifacts.write_table(self.folder / "text.parquet", {"text": [" ".join(words)]})
        artifacts.write_table(self.folder / "short.parquet", {"text": [" ".join(words[:50])]})
        artifacts.write_json(self.folder / "parent.json", {"validation_bits_per_byte": 1.0})


def _delete(path: Path) -> None:
    """Remove a file or folder and let the disk come to rest, so that no command pays for the one before."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    os.sync()


def _measured(rounds: Sequence[tuple[Usage, ...]]) -> Measured:
    """The highest peak, and the median of the rounds' ratios."""
    peak_rss = max(stage.peak_rss for stage, *_ in rounds)
    anonymous = max(stage.peak_anonymous for stage, *_ in rounds)
    beyond = peak_rss - min(imports.peak_rss for _, imports, *_ in rounds)
    beyond_anonymous = anonymous - min(imports.peak_anonymous for _, imports, *_ in rounds)
    if len(rounds[0]) == 2:
        return Measured(peak_rss, beyond, beyond_anonymous)
    over = statistics.median(stage.seconds / copy.seconds for stage, _, copy in rounds)
    without = statistics.median((stage.seconds - imports.seconds) / copy.seconds for stage, imports, copy in rounds)
    return Measured(peak_rss, beyond, beyond_anonymous, over, without)


def planned(model: RealModel, pruned: Path) -> dict[str, int]:
    """By stage, how many parameters must go, from the index maps and what one unit holds; nothing is read off the weights."""
    kept = artifacts.read_table(pruned / "pruned_neurons.parquet", ["kept"])["kept"]
    new_ids = artifacts.read_table(pruned / "pruned_tokens.parquet", ["new_id"])["new_id"]
    rows = model.config["vocab_size"] - sum(new_id >= 0 for new_id in new_ids)  # rows that are no token's go too
    return {
        "prune_neurons": kept.count(False) * model.parameters_per_neuron,
        "prune_embeddings": rows * model.parameters_per_token,
    }


def removed(folder: Path) -> dict[str, int]:
    """The same as the stages' metrics state it."""
    return {
        "prune_neurons": artifacts.read_json(folder / "neurons.json")["num_removed_parameters"],
        "prune_embeddings": artifacts.read_json(folder / "embeddings.json")["parameters_removed"],
    }


def stock(folder: Path) -> dict[str, Any]:
    """What stock transformers says of a checkpoint, in a clean process."""
    done = subprocess.run([sys.executable, "-c", STOCK, folder], check=True, capture_output=True, cwd=folder)
    return json.loads(done.stdout)


def require_memory(num_bytes: float, what: str) -> None:
    """Exit unless that much memory is free, rather than have the kernel end somebody's process."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    if free < num_bytes:
        raise SystemExit(f"{what} needs about {num_bytes / GB:.0f} GB of free memory, {free / GB:.0f} are; try again later")


def measure(name: str, runs: StageRuns, repeats: int, real_profile: bool, refit: bool) -> tuple[list[Row], list[dict[str, object]]]:
    """Everything that was asked for on one model: rows for the table, records for the csv."""
    model, folder = MODELS[name], runs.folder
    found: dict[str, Measured] = {}
    if real_profile or refit:
        runs.smaller_text()
    if real_profile:
        require_memory(6 * model.num_parameters, "profiling")
        found["profile_activations"] = runs.once("profile_activations", "stats.safetensors")
    found["prune_neurons"] = runs.timed("prune_neurons", "base", "neurons", repeats)
    found["prune_embeddings"] = runs.timed("prune_embeddings", "neurons", "pruned", repeats)
    gone, plan, report = removed(folder), planned(model, folder / "pruned"), stock(folder / "pruned")
    if real_profile:
        require_memory(20 * report["num_parameters"], "fine-tuning")
        found["finetune"] = runs.once("finetune", "finetuned")
    if refit:
        require_memory(6 * model.num_parameters, "the refit")
        found["prune_neurons, least_squares"] = runs.once("prune_neurons", "refitted", "least_squares")
    records = [record(name, stage, measured, gone.get(stage), plan.get(stage)) for stage, measured in found.items()]
    return [*_rows(name, found), *_exactness(name, gone, plan, report)], records


def record(name: str, stage: str, measured: Measured, gone: int | None, plan: int | None) -> dict[str, object]:
    """A line of the csv: ``gone`` parameters removed of ``plan``."""
    over = (measured.over_cp, measured.over_cp_without_imports)
    return {
        "model": name,
        "stage": stage,
        "peak_rss_mb": round(measured.peak_rss / MB),
        "beyond_imports_mb": round(measured.beyond_imports / MB),
        "anonymous_beyond_imports_mb": round(measured.anonymous_beyond_imports / MB),
        "time_over_cp": "" if over[0] is None else round(over[0], 2),
        "time_over_cp_without_imports": "" if over[1] is None else round(over[1], 2),
        "removed_parameters": "" if gone is None else gone,
        "planned_parameters": "" if plan is None else plan,
    }


def _rows(name: str, found: Mapping[str, Measured]) -> list[Row]:
    rows = []
    for stage, measured in found.items():
        beyond = f"{measured.beyond_imports / MB:,.0f} MB ({measured.anonymous_beyond_imports / MB:,.0f} anonymous)"
        if measured.over_cp is None:
            peak = f"{measured.peak_rss / GB:.1f} GB; beyond its imports {beyond}"
            goal = "≤ 1,000 MB beyond its imports" if stage.startswith("prune") else "≤ 24 GB"
            rows.append((f"{name}, {stage}: peak resident memory", peak, goal))
        else:
            ratio = f"{measured.over_cp:.2f} × ({measured.over_cp_without_imports:.2f} × without start and imports)"
            rows.append((f"{name}, {stage}: peak memory beyond its imports", beyond, "≤ 1,000 MB"))
            rows.append((f"{name}, {stage}: time over cp of the checkpoint", ratio, "≤ 3 ×"))
    return rows


def _exactness(name: str, gone: Mapping[str, int], plan: Mapping[str, int], report: Mapping[str, Any]) -> list[Row]:
    num_parameters = MODELS[name].num_parameters
    rows = [(f"{name}, {stage}: parameters removed", f"{gone[stage]:,}", f"{plan[stage]:,}") for stage in plan]
    left = num_parameters - sum(plan.values())
    keys = {kind: len(report[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    return [
        *rows,
        (f"{name}, loaded by stock classes: parameters", f"{report['num_parameters']:,} of {num_parameters:,}", f"{left:,}"),
        (f"{name}, loaded by stock classes: missing, unexpected, mismatched", "{}, {}, {}".format(*keys.values()), "0, 0, 0"),
    ]


def keep_records(records: Sequence[Mapping[str, object]], path: Path = RESULTS) -> None:
    """Put the records into the csv, in place of older ones of the same model and stage."""
    new = {(str(record["model"]), str(record["stage"])): record for record in records}
    old = {(record["model"], record["stage"]): record for record in artifacts.read_csv(path)} if path.exists() else {}
    merged = {**old, **new}
    artifacts.write_csv(path, [merged[key] for key in sorted(merged)])


def main() -> None:
    """Make the model, measure, print the table, keep the csv, remove the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--folder", type=Path, help="where to work (10 GB, removed at the end); default: a temporary folder")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--real-profile", action="store_true", help="statistics of the real profile stage; one fine-tuning step")
    parser.add_argument("--refit", action="store_true", help="also prune with refit least_squares")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="real-size-", dir=arguments.folder) as folder:
        runs = StageRuns(MODELS[arguments.model], Path(folder))
        rows, records = measure(arguments.model, runs, arguments.repeats, arguments.real_profile, arguments.refit)
    print_rows(rows)
    keep_records(records)


if __name__ == "__main__":
    main()
