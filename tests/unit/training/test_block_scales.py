"""Tuning the scales of a rounded model: what it changes, and that it helps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from minigpts import params
from minigpts.evaluation import language_modeling
from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from minigpts.model.weights import StoredWeights
from minigpts.params import Runtime
from minigpts.quantization.blocks import Blocks
from minigpts.quantization.formats import FORMATS
from minigpts.quantization.groups import GROUPS, formats_of
from minigpts.quantization.rounding import Cost, rounded
from minigpts.training.block_scales import tune_scales
from minigpts.training.recipe import Recipe
from tests import tiny

ROOT = Path(__file__).parents[3] / "params.yaml"
RUNTIME = Runtime(**{**yaml.safe_load(ROOT.read_text(encoding="utf-8"))["runtime"], "num_threads": 1})
RECIPE = replace(params.read(ROOT, Recipe, "finetune"), sequence_length=64)
TEXTS = tiny.sentences(60)


def bits_per_byte(folder: Path, blocks: Mapping[str, Blocks]) -> float:
    """The texts' bits per byte by a checkpoint with these weights in the places of its own."""
    model = checkpoint.load_model(folder, torch.float32)
    for name, block in blocks.items():
        values = block.values()
        transposed = spec_for(model.config.model_type).is_transposed(name, values.shape)
        checkpoint.set_tensor(model, name, values.T.contiguous() if transposed else values)
    model.tie_weights()
    tokenizer = checkpoint.load_fast_tokenizer(folder)
    return language_modeling.score(model, tokenizer, TEXTS, sequence_length=64, batch_tokens=2048).bits_per_byte


@pytest.mark.parametrize(
    ("family", "block_format", "sizes"),
    [
        ("llama", "IQ4_NL", {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}),
        ("gpt2", "Q4_1", {"hidden_size": 64, "n_inner": 96}),  # rows of output features are columns there, and minima scale too
        ("llama", "Q3_K", {"hidden_size": 256, "intermediate_size": 256, "head_dim": 32}),  # parts keep their multiples
    ],
)
def test_the_text_is_predicted_better_by_the_same_codes(tmp_path: Path, family: str, block_format: str, sizes: dict[str, int]):
    folder = tiny.write_checkpoint(tmp_path / "child", family, **sizes)
    config, stored = checkpoint.load_config(folder), StoredWeights(folder)
    formats = {
        name: found
        for name, found in formats_of(config.model_type, stored.shapes, dict.fromkeys(GROUPS, block_format)).items()
        if found == FORMATS[block_format]
    }
    spec, blocks = spec_for(family), {}
    for name, found in formats.items():
        weight = stored[name].T.contiguous() if spec.is_transposed(name, stored.shapes[name]) else stored[name]
        blocks[name] = rounded(weight, found, Cost(torch.eye(weight.shape[1])), 0)
    tuned = tune_scales(folder, blocks, TEXTS, [None] * len(TEXTS), 4096, RECIPE, RUNTIME)
    assert bits_per_byte(folder, tuned) < bits_per_byte(folder, blocks) - 1e-3
    for name, block in tuned.items():
        assert torch.equal(block.codes, blocks[name].codes)
        assert torch.equal(block.scales, blocks[name].scales) == (not name.startswith(f"{spec.layers}."))
        assert (block.scales / blocks[name].scales - 1).nan_to_num(0).abs().max() < 0.3
    assert all(
        torch.equal(tuned[name].tensors().get(steps, torch.ones(0)), blocks[name].tensors().get(steps, torch.ones(0)))
        for name in tuned
        for steps in ("scale_steps", "minimum_steps")
    )


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_scales_outside_the_attention_and_the_mlp_stay_as_they_are(tmp_path: Path, family: str):
    """Those of the embedding, and of experts: there may be no others."""
    folder = tiny.write_checkpoint(tmp_path / "child", family, hidden_size=64, intermediate_size=32)
    shapes = StoredWeights(folder).shapes
    names = [name for name in shapes if name == "model.embed_tokens.weight" or ".experts." in name]
    fitted = {
        name: rounded(weight, FORMATS["Q8_0"], Cost(torch.eye(weight.shape[1])))
        for name in names
        if (weight := StoredWeights(folder)[name].float()) is not None
    }
    assert tune_scales(folder, fitted, TEXTS, [None] * len(TEXTS), 256, RECIPE, RUNTIME) == fitted
