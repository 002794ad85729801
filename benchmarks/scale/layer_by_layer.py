"""A 7B parent on a machine that can't hold it: memory and time of every stage that computes a layer at a time.

OMP_NUM_THREADS=1 python -m benchmarks.scale.layer_by_layer [--layers 32] [--in-memory] [--folder …]

The stand-in has Llama 2 7B's shapes and random weights, written tensor by tensor. Each stage runs in a process of its own; memory
is what it takes beyond the imports of the same stage. With ``--in-memory`` profile and evaluate run again with the whole model in
memory, and must write the same bytes: few layers, then. Linux alone.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.scale.processes import RECORDED, ROOT, Usage
from benchmarks.scale.real_models import MODELS, with_layers
from benchmarks.scale.stage_runs import StageRuns
from benchmarks.table import Row, print_rows
from minigpts import artifacts

NAME = "llama-2-7b"
RESULTS = ROOT / "benchmarks/results/layer_by_layer.csv"
CALIBRATION_WORDS = 192  # two sequences of 256 tokens, or nearly

# A stage that finds the whole model where it would have made one that computes a layer at a time.
WHOLE = f"""
import torch
from minigpts.model import checkpoint, forward, streaming
def whole(folder, where, weights):
    model = checkpoint.load_model(folder, torch.float32, weights.items()).to(where)
    model.spec = forward.spec_for(model.config.model_type)
    return model
streaming.StreamedModel = whole
{RECORDED}"""


def measure(runs: StageRuns, in_memory: bool, export: bool) -> Iterator[tuple[str, Usage, Usage]]:
    """What ran, its usage and that of its imports alone, stage by stage."""
    outs = {"profile_activations": "stats.safetensors", "evaluate": "scores.json"}
    for stage, out in outs.items():
        yield stage, runs.run(stage, out), runs.imports(stage)
        if in_memory:
            streamed = (runs.folder / out).read_bytes()
            yield f"{stage}, all in memory", runs.run(stage, out, runner=WHOLE), runs.imports(stage)
            assert (runs.folder / out).read_bytes() == streamed, f"{stage}: not the same bytes"
    yield "prune_neurons", runs.run("prune_neurons", "neurons", "least_squares"), runs.imports("prune_neurons")
    yield "prune_embeddings", runs.run("prune_embeddings", "pruned"), runs.imports("prune_embeddings")
    if export:
        yield "export", runs.run("export", "exported"), runs.imports("export")


def write_inputs(folder: Path) -> None:
    """What evaluate and export read besides."""
    question = {"question": "Which word?", "choices": ["bala", "bela"], "answer": 0}
    artifacts.write_jsonl(folder / "questions.jsonl", [{**question, "split": split} for split in ("test", "validation")])
    artifacts.write_json(folder / "plan.json", {"plan": None})
    artifacts.write_json(folder / "skipped.json", {})
    artifacts.write_json(folder / "dataset.json", {"sources": {}})


def record(layers: int, stage: str, usage: Usage, imports: Usage) -> dict[str, Any]:
    """A row of the csv."""
    return {
        "layers": layers,
        "stage": stage,
        "peak_rss_mb": round(usage.peak_rss / 1e6),
        "beyond_imports_mb": round((usage.peak_rss - imports.peak_rss) / 1e6),
        "anonymous_beyond_imports_mb": round((usage.peak_anonymous - imports.peak_anonymous) / 1e6),
        "seconds": round(usage.seconds),
        "cpu_seconds": round(usage.cpu_seconds),
    }


def keep(records: Sequence[Mapping[str, Any]]) -> None:
    """Put the records into the csv, in place of those of the same number of layers and stage."""
    old = artifacts.read_csv(RESULTS) if RESULTS.exists() else []
    rows = {(int(row["layers"]), row["stage"]): row for row in [*old, *records]}
    artifacts.write_csv(RESULTS, [rows[key] for key in sorted(rows, key=lambda key: key[0])])


def main() -> None:
    """Make the model, run the stages, print the table, keep the csv, remove the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32, help="default: %(default)s, of 405 MB each")
    parser.add_argument("--in-memory", action="store_true", help="also profile and evaluate with all of it in memory")
    parser.add_argument("--no-export", dest="export", action="store_false", help="rounding takes half an hour at 32 layers")
    parser.add_argument("--folder", type=Path, help="where to work (40 GB at 32 layers); default: a temporary folder")
    arguments = parser.parse_args()
    records, rows = list[dict[str, Any]](), list[Row]()
    with tempfile.TemporaryDirectory(prefix="layer-by-layer-", dir=arguments.folder) as folder:
        runs = StageRuns(with_layers(MODELS[NAME], arguments.layers), Path(folder))
        runs.smaller_text(CALIBRATION_WORDS)
        write_inputs(Path(folder))
        for stage, usage, imports in measure(runs, arguments.in_memory, arguments.export):
            records.append(record(arguments.layers, stage, usage, imports))
            keep(records)
            beyond = f"{records[-1]['beyond_imports_mb']:,} MB beyond its imports, {usage.cpu_seconds:,.0f} s of CPU time"
            rows.append((f"{arguments.layers} layers, {stage}", beyond, "≤ 4,000 MB"))
    print_rows(rows)


if __name__ == "__main__":
    main()
