"""Pruning on the real model: its cost against loading and saving, and that it is exact.

python -m benchmarks.ratios.pruning [--model …] [--stats …] [--counts …] [--text …]   (defaults: what `make repro` left)
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.table import Row, print_rows
from minigpts import artifacts
from minigpts.model import checkpoint, packing
from minigpts.model.families import spec_for
from stages import prune_embeddings, prune_neurons

# In a process of its own, with nothing of this project imported: what a user of the checkpoint does.
STOCK = """
import sys, numpy as np, torch
from transformers import AutoModelForCausalLM
tokens = torch.from_numpy(np.load(sys.argv[2]))
with torch.inference_mode():
    np.save(sys.argv[3], AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)(tokens).logits.numpy())
"""


def prune(model: Path, stats: Path, counts: Path, text: Path, params: Path, out: Path) -> Path:
    """Both pruning stages as the pipeline runs them; gives the folder of the pruned checkpoint."""
    first = ["--model", model, "--stats", stats, "--text", text, "--out", out / "neurons", "--metrics", out / "neurons.json"]
    prune_neurons.main([*map(str, first), "--widths", str(out / "widths.csv"), "--params", str(params)])
    second = ["--model", out / "neurons", "--counts", counts, "--out", out / "pruned", "--metrics", out / "embeddings.json"]
    prune_embeddings.main([*map(str, second), "--params", str(params)])
    return out / "pruned"


def without_refit(params: Path, out: Path) -> Path:
    """The project's params with the refit off and all heads kept, as a file."""
    settings = yaml.safe_load(params.read_text(encoding="utf-8"))
    settings["prune_neurons"] |= {"refit": "none", "heads": 0}
    (out / "params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return out / "params.yaml"


@torch.inference_mode()
def masked_logits(model: Path, pruned: Path, tokens: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The parent's logits with the same neurons set to zero and the same layers handing on what they get, restricted to the
    kept tokens; ``tokens`` are the parent's."""
    parent = checkpoint.load_model(model, dtype)
    spec = spec_for(parent.config.model_type)
    neurons = artifacts.read_table(pruned / "pruned_neurons.parquet", ["layer", "kept"])
    layers, kept = np.array(neurons["layer"]), np.array(neurons["kept"])
    for index, stays in enumerate(artifacts.read_table(pruned / "pruned_layers.parquet", ["kept"])["kept"]):
        if not stays:
            parent.get_submodule(f"{spec.layers}.{index}").register_forward_hook(lambda _, inputs, output: inputs[0])
            continue
        mask = torch.from_numpy(kept[layers == index]).float()
        module = parent.get_submodule(spec.layer(index, spec.mlp_out))
        module.register_forward_pre_hook(lambda _, inputs, mask=mask: (inputs[0] * mask,))
    new_ids = torch.tensor(artifacts.read_table(pruned / "pruned_tokens.parquet", ["new_id"])["new_id"])
    return parent(tokens).logits[..., : len(new_ids)][..., new_ids >= 0]


def exactness(model: Path, pruned: Path, text: Path, out: Path) -> list[Row]:
    """Largest logit difference between the shrunk and the masked model, and between our loader and stock classes."""
    texts = artifacts.read_table(text, ["text"])["text"]
    config, tokenizer = checkpoint.load_config(model), checkpoint.load_fast_tokenizer(model)
    ids = packing.pack_texts(tokenizer, config, texts, 256, 1024)
    new_ids = np.array(artifacts.read_table(pruned / "pruned_tokens.parquet", ["new_id"])["new_id"])
    end = packing.boundaries(tokenizer, config).end
    kept = np.where(new_ids[ids] >= 0, ids, end)  # a dropped token has no embedding to compare
    np.save(out / "tokens.npy", new_ids[kept])
    logits = {}
    for dtype in (torch.float64, torch.float32):
        with torch.inference_mode():
            shrunk = checkpoint.load_model(pruned, dtype)(torch.from_numpy(new_ids[kept])).logits
        logits[dtype] = shrunk, masked_logits(model, pruned, torch.from_numpy(kept), dtype)
    differences = {dtype: float((shrunk - masked).abs().max()) for dtype, (shrunk, masked) in logits.items()}
    rounding = float((logits[torch.float32][1] - logits[torch.float64][1]).abs().max())
    subprocess.run([sys.executable, "-c", STOCK, pruned, out / "tokens.npy", out / "logits.npy"], check=True, cwd=out)
    stock = float((logits[torch.float32][0] - torch.from_numpy(np.load(out / "logits.npy"))).abs().max())
    name = "shrunk against masked parent, largest logit difference"
    return [
        (f"{name} in fp64, before refit", f"{differences[torch.float64]:.2e}", "≤ 1e-12"),
        (f"{name} in fp32 (fp32 against fp64 in the masked parent: {rounding:.2e})", f"{differences[torch.float32]:.2e}", "≤ 1e-4"),
        ("stock classes in a clean process against our loader, largest logit difference", f"{stock:g}", "0"),
    ]


def rows(model: Path, stats: Path, counts: Path, text: Path, params: Path = Path("params.yaml"), repeats: int = 5) -> list[Row]:
    """The median ratio of ``repeats`` alternating runs of pruning both ways (refit off) and of loading and saving; exactness."""
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        settings = without_refit(params, out)
        pruned = prune(model, stats, counts, text, settings, out)  # warm: imports and the page cache
        for _ in range(repeats):
            start = time.perf_counter()
            prune(model, stats, counts, text, settings, out)
            middle = time.perf_counter()
            AutoModelForCausalLM.from_pretrained(model).save_pretrained(out / "copy")
            AutoTokenizer.from_pretrained(model).save_pretrained(out / "copy")
            ratios.append((middle - start) / (time.perf_counter() - middle))
        ratio = statistics.median(ratios)
        speed = (
            "pruning neurons and embeddings, refit off, over loading and saving model and tokenizer with transformers, time",
            f"{ratio:.2f} ×",
            "≤ 2 ×",
        )
        return [speed, *exactness(model, pruned, text, out)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("data/checkpoints/base"))
    parser.add_argument("--stats", type=Path, default=Path("data/profile/activation_stats.safetensors"))
    parser.add_argument("--counts", type=Path, default=Path("data/profile/token_counts.parquet"))
    parser.add_argument("--text", type=Path, default=Path("data/prepared/calibration.parquet"))
    arguments = parser.parse_args()
    print_rows(rows(arguments.model, arguments.stats, arguments.counts, arguments.text))


if __name__ == "__main__":
    main()
