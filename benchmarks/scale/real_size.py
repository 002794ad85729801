"""Pruning at the paper's models' real size: memory beyond the libraries, time over `cp`, and parameters to the last one.

python -m benchmarks.scale.real_size --model phi-1.5 [--folder …] [--real-profile] [--refit]

Every stage runs in a process of its own, as the pipeline runs it. What it needs beyond the interpreter and its libraries is told
by a second process, which imports the very modules that the stage had loaded when it ended, and ends. Linux alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.scale.processes import ROOT, Usage
from benchmarks.scale.real_models import MODELS, RealModel
from benchmarks.scale.stage_runs import StageRuns
from benchmarks.table import Row, print_rows
from minigpts import artifacts

RESULTS = ROOT / "benchmarks/results/real_size.csv"
CALIBRATION_WORDS = 2048  # of the profile and of the refit; a word is one token at least
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


def _once(runs: StageRuns, stage: str, out: str, refit: str = "none") -> Measured:
    """One run, for its memory."""
    return _measured([(runs.run(stage, out, refit), runs.imports(stage))])


def _timed(runs: StageRuns, stage: str, source: str, out: str, repeats: int) -> Measured:
    """``repeats`` rounds of copying ``source``, the stage, and its imports alone, after a round that warms the page cache."""
    runs.copy(source)
    runs.run(stage, out)
    return _measured([(runs.run(stage, out), runs.imports(stage), runs.copy(source)) for _ in range(repeats)])


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
        runs.smaller_text(CALIBRATION_WORDS)
    if real_profile:
        require_memory(6 * model.num_parameters, "profiling")
        found["profile_activations"] = _once(runs, "profile_activations", "stats.safetensors")
    found["prune_neurons"] = _timed(runs, "prune_neurons", "base", "neurons", repeats)
    found["prune_embeddings"] = _timed(runs, "prune_embeddings", "neurons", "pruned", repeats)
    gone, plan, report = removed(folder), planned(model, folder / "pruned"), stock(folder / "pruned")
    if real_profile:
        require_memory(20 * report["num_parameters"], "fine-tuning")
        found["finetune"] = _once(runs, "finetune", "finetuned")
    if refit:
        require_memory(6 * model.num_parameters, "the refit")
        found["prune_neurons, least_squares"] = _once(runs, "prune_neurons", "refitted", "least_squares")
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
