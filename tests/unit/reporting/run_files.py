"""Everything the report stage reads, true to the stages' schemas, around two tiny checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from minigpts import artifacts
from minigpts.exporting import export
from minigpts.exporting.general_section import Provenance
from minigpts.model import checkpoint
from minigpts.model.weights import StoredWeights, write_tensors
from minigpts.quantization.groups import GROUPS
from tests import tiny

LAYERS, WIDTH, HEADS = 3, 77, 4
PLAN = {
    "num_removed_layers": 0,
    "num_removed_key_value_heads": 0,
    "num_removed_experts": 0,
    "widths": [48] * LAYERS,
    "num_counted_tokens": 123,
    "vocab_size": 400,
    "num_parameters": 570_000,
    "checkpoint_bytes": 1_140_512,
}
PROMPTS = ["An abnormality of the", "<script>alert(1)</script>", "What is a heart?"]
SPEAKERS = ("base", "tuned_parent", "pruned", "finetuned", "exported")


def evaluation(**changes: Any) -> dict[str, Any]:
    """One of ``metrics/{base,pruned,finetuned}.json``."""
    values = {
        "bits_per_byte": 1.0,
        "validation_bits_per_byte": 1.1,
        "perplexity": 20.0,
        "acc": 0.5,
        "acc_norm": 0.6,
        "acc_stderr": 0.02,
        "acc_norm_stderr": 0.02,
        "num_questions": 600,
        "num_parameters": 1_000_000,
        "num_nonzero_parameters": 999_999,
        "checkpoint_bytes": 2_000_512,
        "vocab_size": 480,
        "relative_size": 1.0,
        "test_tokens": 1000,
        "test_base_tokens": 1000,
        "test_bytes": 4000,
        "speech": speech(),
    }
    return {**values, **changes}


def speech(empty: float = 0.0, loop: float = 0.1, kept: float | None = 0.5) -> dict[str, Any]:
    """What an evaluation has of its replies."""
    rates = {"empty_rate": empty, "loop_rate": loop, "end_rate": 0.75, "distinct_2": 0.625, "length": 41.5}
    return {"domain": rates, "general": rates, "sampled": rates, "instructions": kept}


def replies(name: str) -> dict[str, list[dict[str, Any]]]:
    """The replies that ``evaluate`` writes: to the second prompt all but the parent say nothing, on the third they loop."""
    facts = [{"empty": name != "base" and row == 1, "loops": name != "base" and row == 2} for row in range(len(PROMPTS))]
    return {
        "domain": [
            {
                "prompt": prompt,
                "asks": row > 0,
                "reply": "" if fact["empty"] else f"{name} says {row} <i>",
                "tokens": 3,
                "ended": True,
                **fact,
            }
            for row, (prompt, fact) in enumerate(zip(PROMPTS, facts, strict=True))
        ]
    }


def dataset() -> dict[str, Any]:
    """``metrics/dataset.json`` with a hostile source."""
    return {
        "documents": {"train": 900, "test": 100},
        "leak_check": {
            "found": {"train": {"test": 4, "test_questions": 3}},
            "dropped": {"train": 5, "test_questions": 1},
            "leakage": {"test_questions": 0.0125},
        },
        "num_questions": 600,
        "sources": {
            "hpo": {
                "name": "Human Phenotype Ontology",
                "acknowledgement": 'It says <img src=x onerror="alert(1)"> & more',
                "version": "hp/releases/2025-01-16",
            }
        },
    }


def metrics() -> dict[str, dict[str, Any]]:
    """All metrics files by name."""
    smaller = {"num_parameters": 570_000, "num_nonzero_parameters": 569_990, "checkpoint_bytes": 1_140_512, "relative_size": 0.57}
    return {
        "dataset": dataset(),
        "plan": {"num_parameters": 570_000, "predicted_damage": 0.2},
        "prune_neurons": {"num_neurons": 231, "num_removed_neurons": 87, "num_zeroed_parameters": 0},
        "prune_embeddings": {"vocab_size_before": 480, "vocab_size_after": 400, "tokens_kept": {"counted": 300, "builds": 100}},
        "finetune": {"steps": 40, "tokens": 80_000, "stop_reason": "budget", "recovered": True, "recovered_at_tokens": 32_000},
        "base": evaluation(),
        "tuned_parent": evaluation(bits_per_byte=0.8, validation_bits_per_byte=0.95, perplexity=14.0, acc=0.55, acc_norm=0.6),
        "pruned": evaluation(**smaller, bits_per_byte=1.6, acc=0.3, acc_norm=0.33),
        "finetuned": evaluation(**smaller, bits_per_byte=0.9, perplexity=17.0, acc=0.45, acc_norm=0.61),
        "exported": evaluation(
            **{**smaller, "checkpoint_bytes": 400_000}, bits_per_byte=0.92, perplexity=18.0, acc=0.44, acc_norm=0.6
        ),
        "export": {
            "file": "tiny-notes.gguf",
            "megabytes": 0.4,
            "bits_per_weight": 5.614,
            "formats": {"embedding": {"Q5_0": 1}, "mlp_out": {"IQ4_NL": 2, "F16": 1}},
            "bytes_by_group": {
                "embedding": 90_000,
                "query_key": 30_000,
                "value_output": 40_000,
                "mlp_in": 120_000,
                "mlp_out": 70_000,
            }
            | {"norms, biases and positions": 4_000, "header": 46_000},
            "fallbacks": {"mlp_out: F16 for IQ4_NL, whose blocks don't divide rows of 77": 1},
        },
    }


def write_export(out: Path, child: Path, weights: Path) -> Path:
    """An exported file of ``child`` in half precision, with the weights of the checkpoint ``weights``; gives the file."""
    origin = Provenance("Tiny", None, None, None, "notes", 1, 2)
    wanted = dict.fromkeys(GROUPS, "F16")
    return out / export.write(out, child, origin, wanted, StoredWeights(weights).items(), str)["file"]


def write_run(root: Path, planned: bool = False, exported: bool = True) -> list[str]:
    """Write the files below ``root``, of a run by thresholds or by a budget's plan; gives the stage's arguments.

    The exported file's weights are others than those of its checkpoint, so that what reads the wrong ones shows.
    """
    base = tiny.write_checkpoint(root / "base", dtype=torch.bfloat16)
    child = tiny.write_checkpoint(root / "finetuned", seed=1, dtype=torch.bfloat16, intermediate_size=48)
    _write_profile(root, base, child)
    for name, values in metrics().items():
        artifacts.write_json(root / "metrics" / f"{name}.json", values if exported or "export" not in name else {})
    if exported:
        other = tiny.write_checkpoint(root / "other", seed=7, dtype=torch.bfloat16, intermediate_size=48)
        write_export(root / "export", child, other)
    else:
        artifacts.write_json(root / "export" / checkpoint.SKIPPED, {"formats": []})
    for name in SPEAKERS:
        artifacts.write_json(root / f"speech/{name}.json", replies(name) if exported or name != "exported" else {})
    widths = [{"layer": layer, "width": 48, "parent_width": WIDTH} for layer in range(LAYERS)]
    artifacts.write_csv(root / "metrics/plots/layer_widths.csv", widths)
    artifacts.write_csv(root / "metrics/plots/recovery.csv", curve())
    artifacts.write_csv(root / "metrics/plots/plan.csv", plan())
    artifacts.write_json(root / "plan.json", {"plan": PLAN if planned else None})
    text = yaml.safe_dump({"threshold": 0.1, "embedding_threshold": 0.0})
    (root / "params.yaml").write_text(text, encoding="utf-8")
    flags = {
        "base": base,
        "finetuned": child,
        "exported": root / "export",
        "stats": root / "stats.safetensors",
        "counts": root / "counts.parquet",
        "plan": root / "plan.json",
        "metrics": root / "metrics",
        "speech": root / "speech",
        "summary": root / "metrics/summary.json",
        "figures": root / "metrics/figures",
        "page": root / "metrics/report.html",
        "params": root / "params.yaml",
    }
    return [part for name, value in flags.items() for part in (f"--{name}", str(value))]


def curve() -> list[dict[str, Any]]:
    """The rows of ``recovery.csv``; before the first step there is no training loss."""
    values = [(0, 0, 1.7, 0.4), (16, 32_000, 1.09, 0.55), (40, 80_000, 0.98, 0.5)]
    return [
        {
            "step": step,
            "tokens": tokens,
            "validation_bits_per_byte": bits,
            "train_loss": 2.5 if step else None,
            "validation_acc": acc_norm - 0.05,
            "validation_acc_norm": acc_norm,
            "parent_validation_bits_per_byte": 1.1,
            "parent_validation_acc_norm": 0.6,
        }
        for step, tokens, bits, acc_norm in values
    ]


def plan() -> list[dict[str, Any]]:
    """The rows of ``plan.csv``: two measured curves, and what was chosen of each."""
    points = [("MLP", 0, 0, 0.0), ("MLP", 40, 300_000, 0.1), ("layers", 0, 0, 0.0), ("layers", 1, 200_000, 0.4)]
    bits = {
        "kind": "bits of embedding",
        "format": "Q8_0",
        "level": 0,
        "bytes_freed": 100_000,
        "damage": 0.01,
        "standard_error": 0.002,
    }
    rows = [
        {"kind": kind, "format": "", "level": level, "bytes_freed": size, "damage": damage, "standard_error": 0.01}
        for kind, level, size, damage in points
    ]
    taken = [{**row, "standard_error": None} for row in rows[1:3]]
    return [{**row, "chosen": False} for row in [*rows, bits]] + [{**row, "chosen": True} for row in [*taken, bits]]


def statistics() -> dict[str, torch.Tensor]:
    """``activation_stats.safetensors``: sums over 1000 tokens."""
    random = np.random.default_rng(0)
    tensors = {"count": torch.tensor(1000)}
    for layer in range(LAYERS):
        for name in ("abs_sum", "sum", "square_sum"):
            tensors[f"layers.{layer}.mlp.{name}"] = torch.from_numpy(random.lognormal(4.0 + layer, 1.0, WIDTH))
        tensors[f"layers.{layer}.heads.square_sum"] = torch.from_numpy(random.lognormal(4.0, 1.0, HEADS))
    return tensors


def _write_profile(root: Path, base: Path, child: Path) -> None:
    write_tensors(root / "stats.safetensors", statistics())
    tokenizer = checkpoint.load_fast_tokenizer(base)
    size = tokenizer.get_vocab_size()
    ids = list(range(size))
    tokens = ["<b>Ġ</b>" if i == 5 else "Ġ<b>x</b>" if i == 7 else "ĠFootball" if i == 9 else tokenizer.id_to_token(i) for i in ids]
    counts = [0 if i % 10 in (5, 7, 9) else 4000 // (i + 1) + 1 for i in ids]
    artifacts.write_table(root / "counts.parquet", {"token_id": ids, "token": tokens, "count": counts})
    kept = [i for i in ids if counts[i]]
    columns = {
        "token_id": ids,
        "token": tokens,
        "count": counts,
        "new_id": [kept.index(i) if counts[i] else -1 for i in ids],
        "reason": ["counted" if counts[i] else None for i in ids],
    }
    artifacts.write_table(child / "pruned_tokens.parquet", columns)
