"""Rounding alone: what each block format costs a tuned checkpoint by llama.cpp's rule and by the project's, on validation text.

python -m benchmarks.experiments.rounding --model FOLDER [--formats IQ4_NL Q5_0 …] [--prepared data/prepared] [--data NAME]

Every linear layer whose rows hold the format is rounded to it; embedding and head stay as they are, so that it is the rule that is
compared. Both rules see the same calibration tokens: llama.cpp's by its importance matrix. Damage is in bits per byte over the
unrounded checkpoint's. Judge it on tuned weights: a parent that comes out of a Q4_1 file lies on that grid. A row a format is
written as it is measured, in the place of an earlier one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor

from benchmarks.device import DEVICE
from benchmarks.llamacpp import library
from benchmarks.llamacpp.importance import calibration_tokens, of_checkpoint
from benchmarks.table import merge
from minigpts import artifacts
from minigpts.errors import UserError, exit_cleanly
from minigpts.evaluation import language_modeling
from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from minigpts.model.weights import StoredWeights
from minigpts.quantization.formats import FORMATS, PackedWeight, fitting
from minigpts.quantization.layerwise import rounded_weights

Rounded = Iterable[tuple[str, PackedWeight | Tensor]]  # weights by their names in the checkpoint's file
Rule = Callable[[Path, Tensor, Mapping[str, str]], Rounded]  # checkpoint, calibration tokens, format by the weight's name
BLOCK_FORMATS = [name for name, block_format in FORMATS.items() if block_format.block > 1]


def llamacpp(importance: Mapping[str, Any]) -> Rule:
    """llama.cpp's own rule, with an importance (in_features,) for each weight."""

    def rule(folder: Path, tokens: Tensor, formats: Mapping[str, str]) -> Rounded:
        stored, transposed = StoredWeights(folder), spec_for(checkpoint.load_config(folder).model_type).transposed
        for name, block_format in formats.items():
            weight = stored[name].float().numpy()
            found = library.rounded(weight.T if transposed else weight, block_format, importance[name])
            yield name, torch.from_numpy(found.T if transposed else found)

    return rule


def ours(folder: Path, tokens: Tensor, formats: Mapping[str, str]) -> Rounded:
    """The project's rule, with compensation on the same tokens."""
    config = checkpoint.load_config(folder)
    chosen = {name: FORMATS[block_format] for name, block_format in formats.items()}
    for name, blocks in rounded_weights(StoredWeights(folder), config, spec_for(config.model_type), chosen, tokens):
        yield name, blocks.packed()


def formats_of(folder: Path, name: str) -> dict[str, str]:
    """The format ``name`` for every weight of the layers whose rows hold it. Raises UserError where none does."""
    config = checkpoint.load_config(folder)
    spec = spec_for(config.model_type)
    found = {}
    for weight, shape in StoredWeights(folder).shapes.items():
        if len(shape) == 2 and weight.startswith(f"{spec.layers}.") and fitting(name, shape[spec.input_axis]).name == name:
            found[weight] = name
    if not found:
        raise UserError(f"{folder}: no row of its layers is a multiple of {name}'s block")
    return found


def bits_per_byte(folder: Path, texts: Sequence[str], weights: Rounded = ()) -> float:
    """The texts' bits per byte by a checkpoint in fp32, some of its weights replaced."""
    model, tokenizer = checkpoint.load_model(folder, torch.float32), checkpoint.load_fast_tokenizer(folder)
    transposed = spec_for(model.config.model_type).transposed
    for name, weight in weights:
        checkpoint.set_tensor(model, name, values(weight, transposed))
    model.tie_weights()
    limits: dict[str, Any] = {"sequence_length": 1024, "batch_tokens": 4096}
    return language_modeling.score(model.to(DEVICE), tokenizer, texts, **limits, progress="validation text").bits_per_byte


def values(weight: PackedWeight | Tensor, transposed: bool) -> Tensor:
    """A weight's numbers in float32, as the checkpoint has them."""
    if isinstance(weight, Tensor):
        return weight.float().cpu()
    found = torch.from_numpy(dequantize(weight.data, GGMLQuantizationType[weight.block_format.name]))
    return found.T.contiguous() if transposed else found


def measured(folder: Path, texts: Sequence[str], tokens: Tensor, names: Sequence[str]) -> Iterable[dict[str, Any]]:
    """A row a format: bits per byte unrounded, the damage of both rules, and ours over llama.cpp's."""
    theirs = llamacpp(of_checkpoint(folder, tokens))
    unrounded = bits_per_byte(folder, texts)
    for name in names:
        formats = formats_of(folder, name)
        damage, own_damage = (bits_per_byte(folder, texts, rule(folder, tokens, formats)) - unrounded for rule in (theirs, ours))
        both = {"damage_llamacpp": damage, "damage_ours": own_damage, "ratio": own_damage / damage}
        yield {"format": name, "bits_per_byte": unrounded, **both}


def main(argv: Sequence[str] | None = None) -> None:
    """Round, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a tuned checkpoint")
    parser.add_argument("--prepared", type=Path, default=Path("data/prepared"), help="(default: %(default)s)")
    parser.add_argument("--data", default="medical", help="what the rows are called (default: %(default)s)")
    parser.add_argument("--formats", nargs="+", default=BLOCK_FORMATS, help="(default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=12_288, help="of calibration text (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/rounding.csv"), help="(default: %(default)s)")
    arguments = parser.parse_args(argv)
    for name in arguments.formats:
        formats_of(arguments.model, name)  # an unknown one is refused before anything is measured
    calibration, validation = (
        artifacts.read_table(arguments.prepared / f"{split}.parquet", ["text"])["text"] for split in ("calibration", "validation")
    )
    tokens = calibration_tokens(arguments.model, calibration, arguments.tokens)
    for row in measured(arguments.model, validation, tokens, arguments.formats):
        print(row, file=sys.stderr)
        merge(arguments.out, [{"data": arguments.data, **row}], lambda line: (line["data"], line["format"]))


if __name__ == "__main__":
    exit_cleanly(main)
