"""Half of the experts of a model of Qwen3-30B-A3B's shape removed: memory beyond the libraries, and parameters to the last one.

python -m benchmarks.scale.experts [--layers 4] [--folder …]

All layers are alike and one is handled at a time, so a few of the 48 tell the memory; each takes 1.9 GB of disk, with its cut.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from transformers import AutoConfig, PreTrainedConfig

from benchmarks.scale.processes import ROOT, imports_of, run_module
from benchmarks.scale.real_size import MB, Measured, keep_records, record
from benchmarks.table import print_rows
from minigpts import artifacts
from minigpts.model import checkpoint
from minigpts.model.weights import WEIGHTS, TensorWriter, write_tensors
from minigpts.profiling.recorder import ExpertSums
from minigpts.profiling.statistics import COUNT, cosine_name, experts_name, heads_name

SHAPE = {  # of Qwen/Qwen3-30B-A3B's config.json, what transformers' defaults don't say
    "vocab_size": 151936,
    "hidden_size": 2048,
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "tie_word_embeddings": False,
}
REMOVED = 64  # experts of each layer
PARAMETERS = 3 * 768 * 2048 + 2048  # of an expert, and its row of the router
STAGE = "prune_neurons"


def make(folder: Path, num_layers: int) -> None:
    """Write ``base`` (the checkpoint, of repeated noise), ``stats.safetensors``, an empty ``text.parquet`` and ``params.yaml``."""
    config = AutoConfig.for_model("qwen3_moe", **SHAPE, num_hidden_layers=num_layers, dtype="bfloat16")
    config.architectures = ["Qwen3MoeForCausalLM"]
    config.save_pretrained(folder / "base")
    shapes, generator = checkpoint.stored_shapes(config), torch.Generator().manual_seed(0)
    noise = torch.empty(max(map(math.prod, shapes.values())), dtype=torch.bfloat16).normal_(0.0, 0.02, generator=generator)
    with (folder / "base" / WEIGHTS).open("wb") as file:
        writer = TensorWriter(file, shapes, torch.bfloat16, {"format": "pt"})
        for name, shape in shapes.items():
            writer.write(name, noise[: math.prod(shape)].view(shape))
    write_tensors(folder / "stats.safetensors", dict(_statistics(config, generator)))
    artifacts.write_table(folder / "text.parquet", {"text": [""]})
    settings = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    settings["prune_neurons"] |= {"experts": REMOVED, "refit": "none"}
    (folder / "params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")


def _statistics(config: PreTrainedConfig, generator: torch.Generator) -> Iterator[tuple[str, torch.Tensor]]:
    """What profile_activations writes, but made up."""
    yield COUNT, torch.tensor(4096)
    for index in range(config.num_hidden_layers):
        for of in ExpertSums.KEPT:
            yield experts_name(index, of), torch.rand(config.num_experts, dtype=torch.float64, generator=generator)
        yield heads_name(index, "square_sum"), torch.rand(config.num_attention_heads, dtype=torch.float64, generator=generator)
        yield cosine_name(index), torch.rand((), dtype=torch.float64, generator=generator)


def measure(folder: Path) -> Measured:
    """The stage in a process of its own, beside its imports alone."""
    inputs = {"model": "base", "stats": "stats.safetensors", "text": "text.parquet", "params": "params.yaml"}
    outputs = {"out": "cut", "metrics": "metrics.json", "widths": "widths.csv"}
    flags = [part for flag, name in {**inputs, **outputs}.items() for part in (f"--{flag}", folder / name)]
    stage, imports = run_module(f"stages.{STAGE}", flags, folder / "modules.json"), imports_of(folder / "modules.json")
    beyond = stage.peak_rss - imports.peak_rss, stage.peak_anonymous - imports.peak_anonymous
    return Measured(stage.peak_rss, *beyond)


def main() -> None:
    """Make the model, measure, print the table, keep the csv, remove the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4, help="of 48 (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    arguments = parser.parse_args()
    name, plan = f"qwen3-30b-a3b, {arguments.layers} layers, half of the experts", REMOVED * PARAMETERS * arguments.layers
    with tempfile.TemporaryDirectory(prefix="experts-", dir=arguments.folder) as work:
        folder = Path(work)
        make(folder, arguments.layers)
        found = measure(folder)
        gone = artifacts.read_json(folder / "metrics.json")["num_removed_parameters"]
    beyond = f"{found.beyond_imports / MB:,.0f} MB ({found.anonymous_beyond_imports / MB:,.0f} anonymous)"
    print_rows(
        [
            (f"{name}: peak memory", f"{found.peak_rss / MB:,.0f} MB", "≤ 2,000 MB"),
            (f"{name}: … beyond its imports", beyond, ""),
            (f"{name}: parameters removed", f"{gone:,}", f"{plan:,}"),
        ]
    )
    keep_records([record(name, STAGE, found, gone, plan)])


if __name__ == "__main__":
    main()
