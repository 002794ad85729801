"""Memory and time of rounding two decoder layers of a 1.3B model (Sheared-LLaMA's shapes), over a forward pass through them.

OMP_NUM_THREADS=1 python -m benchmarks.scale.rounding [--tokens 12288] [--format IQ4_NL]

The weights are random: neither memory nor time depends on them. Time is the process's own on a CPU, so that other work there
doesn't count; on one thread, since idle threads spin. Memory is the process's peak, libraries included. Linux alone.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.device import DEVICE
from benchmarks.table import Row, print_rows
from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from minigpts.model.layerwise import advance, filled, first_hidden_states, layers_of
from minigpts.model.weights import StoredWeights
from minigpts.quantization.groups import GROUPS, formats_of
from minigpts.quantization.layerwise import rounded_weights

SHAPES = {"hidden_size": 2048, "intermediate_size": 5504, "num_attention_heads": 16, "vocab_size": 32_000, "num_hidden_layers": 2}
SEQUENCE_LENGTH = 512
CLOCK = time.process_time if DEVICE.type == "cpu" else time.perf_counter


def write_model(folder: Path) -> None:
    """A checkpoint of random bf16 weights; it needs no tokenizer."""
    from transformers import LlamaConfig

    config = LlamaConfig(**SHAPES, dtype=torch.bfloat16, tie_word_embeddings=False)
    chance = torch.Generator().manual_seed(0)
    shapes = checkpoint.stored_shapes(config)
    weights = ((name, torch.randn(shape, generator=chance).mul_(0.02).bfloat16()) for name, shape in shapes.items())
    with checkpoint.saving(folder, config, weights, companions=folder.parent):
        pass


@torch.inference_mode()
def forward_seconds(folder: Path, tokens: torch.Tensor) -> float:
    """Of a forward pass through the layers, loaded one at a time as rounding loads them."""
    config, stored = checkpoint.load_config(folder), StoredWeights(folder)
    spec = spec_for(config.model_type)
    stream, calls = first_hidden_states(config, spec, stored, tokens)
    start = CLOCK()
    for index, layer in enumerate(layers_of(config, spec)):
        with filled(layer, stored.under(f"{spec.layers}.{index}"), tokens.device):
            advance(layer, stream, [batch[index] for batch in calls])
    return CLOCK() - start


def rounding_seconds(folder: Path, tokens: torch.Tensor, name: str) -> float:
    """Of rounding the layers' weights; embedding and head, which any number of layers share, stay as they are."""
    config, stored = checkpoint.load_config(folder), StoredWeights(folder)
    formats = formats_of(config.model_type, stored.shapes, dict.fromkeys(GROUPS, name))
    layers = spec_for(config.model_type).layers
    formats = {weight: kind for weight, kind in formats.items() if weight.startswith(layers)}
    start = CLOCK()
    for _, blocks in rounded_weights(stored, config, spec_for(config.model_type), formats, tokens):
        blocks.packed()
    return CLOCK() - start


def rows(num_tokens: int, name: str) -> list[Row]:
    """Time per layer over a forward's, and the peak."""
    chance = torch.Generator().manual_seed(1)
    tokens = torch.randint(SHAPES["vocab_size"], (num_tokens // SEQUENCE_LENGTH, SEQUENCE_LENGTH), generator=chance).to(DEVICE)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        write_model(folder)
        forward, rounding = forward_seconds(folder, tokens), rounding_seconds(folder, tokens, name)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    what = f"rounding a layer at 1.3B shapes to {name}, {num_tokens:,} tokens"
    return [
        (f"{what}: time over a forward pass", f"{rounding / forward:.1f} ×", "≤ 2 ×"),
        (f"{what}: memory", f"{peak / 1e9:.2f} GB", "≤ 3 GB"),
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=12_288, help="of calibration text; default: %(default)s")
    parser.add_argument("--format", default="IQ4_NL", help="default: %(default)s")
    arguments = parser.parse_args()
    print_rows(rows(arguments.tokens, arguments.format))


if __name__ == "__main__":
    main()
