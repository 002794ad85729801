"""Tiny children of every family, written by the stages' own writers, with everything set that transformers 5 spells anew."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minigpts.model import checkpoint
from minigpts.model.weights import StoredWeights
from minigpts.vocabulary.counts import count_tokens, write_counts
from stages import prune_embeddings
from tests import tiny

WIDTHS = [77, 31, 52]
HALF_DIM = 5  # of the rotated dimensions of a head of 10

# Rotary settings that are nobody's default, in the spelling of transformers 5.
FLAT = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "phi", "phi3", "stablelm", "gpt_neox")
COMPARED = (*FLAT, "gemma3_text", "opt", "gpt2")  # families whose checkpoints transformers 4.57 is asked to read
ROPE: dict[str, dict[str, Any]] = {family: {"rope_type": "default", "rope_theta": 700.0} for family in FLAT}
ROPE["phi"]["partial_rotary_factor"] = 0.4
ROPE["stablelm"]["partial_rotary_factor"] = 0.6
ROPE["gpt_neox"]["partial_rotary_factor"] = 0.6
ROPE["gemma3_text"] = {
    "full_attention": {"rope_type": "default", "rope_theta": 5000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 700.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 700.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 700.0,
}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0 + 0.1 * i for i in range(HALF_DIM)],
    "long_factor": [2.0 + 0.5 * i for i in range(HALF_DIM)],
    "rope_theta": 700.0,
}
LONG = {"rope_parameters": LONGROPE, "original_max_position_embeddings": 32, "max_position_embeddings": 256}

VARIANTS: dict[str, tuple[str, Mapping[str, Any]]] = {
    **{name: (family, {"rope_parameters": ROPE[family], **changes} if family in ROPE else changes)
       for name, (family, changes) in tiny.VARIANTS.items() if family in COMPARED},
    "llama, llama3 rope": ("llama", {"rope_parameters": LLAMA3}),
    "mistral, linear rope": ("mistral", {"rope_parameters": LINEAR}),
    "qwen2, yarn": ("qwen2", {"rope_parameters": YARN}),
    "gemma3_text, linear rope": (
        "gemma3_text",
        {"rope_parameters": {"full_attention": LINEAR, "sliding_attention": {"rope_type": "default", "rope_theta": 300.0}}},
    ),
    "gpt_neox, linear rope": ("gpt_neox", {"rope_parameters": {**LINEAR, "partial_rotary_factor": 0.6}}),
    "phi3, longrope": ("phi3", LONG),
}  # fmt: skip


def write(root: Path, name: str) -> list[Path]:
    """A parent, and its child of uneven widths and a trimmed vocabulary, of one of :data:`VARIANTS`."""
    family, changes = VARIANTS[name]
    parent = tiny.write_checkpoint(root / "parent", family, **changes)
    return [parent, trimmed(uneven(parent, root / "uneven"), root / "child")]


def uneven(parent: Path, out: Path) -> Path:
    """Each layer keeps its first neurons, ever another number of them."""
    config, weights = checkpoint.load_config(parent), StoredWeights(parent)
    config.intermediate_sizes = WIDTHS
    shapes = checkpoint.stored_shapes(config)
    cut = {name: weights[name][tuple(slice(size) for size in shape)] for name, shape in shapes.items()}
    with checkpoint.saving(out, config, cut.items(), companions=parent):
        pass
    return out


def trimmed(parent: Path, out: Path) -> Path:
    """Only the tokens of ten sentences stay; the stage itself writes the child."""
    root = out.parent
    tokenizer = checkpoint.load_fast_tokenizer(parent)
    write_counts(root / "counts.parquet", tokenizer, count_tokens(tokenizer, tiny.sentences(10)))
    (root / "params.yaml").write_text("embedding_threshold: 0\nthreshold: 0.1\n")
    flags = {"model": parent, "counts": root / "counts.parquet", "out": out, "metrics": root / "metrics.json"}
    flags["params"] = root / "params.yaml"
    prune_embeddings.main([item for flag, path in flags.items() for item in (f"--{flag}", str(path))])
    return out
