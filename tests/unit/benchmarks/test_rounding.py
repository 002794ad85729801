"""Rounding alone: llama.cpp's rule beside the project's, on a tiny model whose rows hold blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.experiments import rounding
from benchmarks.llamacpp import library
from minigpts import artifacts
from minigpts.errors import UserError
from minigpts.model.weights import StoredWeights
from minigpts.quantization.formats import FORMATS, PackedWeight
from tests import tiny


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def project(request, tmp_path_factory) -> Path:
    """A checkpoint whose rows are multiples of 32 but not of 256, and text."""
    folder = tmp_path_factory.mktemp("rounding")
    sizes = {"llama": {"intermediate_size": 96, "head_dim": 16}, "gpt2": {"n_inner": 96}}[request.param]
    tiny.write_checkpoint(folder / "model", request.param, hidden_size=64, **sizes)
    for split, seed in (("calibration", 0), ("validation", 1)):
        artifacts.write_table(folder / f"prepared/{split}.parquet", {"text": tiny.sentences(40, seed)})
    return folder


def run(project: Path, *more: str) -> list[dict[str, str]]:
    out = project / "rounding.csv"
    flags = ["--model", str(project / "model"), "--prepared", str(project / "prepared"), "--out", str(out), "--tokens", "512"]
    rounding.main([*flags, *more])
    return artifacts.read_csv(out)


def plain(folder: Path, tokens: Tensor, formats: Mapping[str, str]) -> Iterator[tuple[str, PackedWeight | Tensor]]:
    """A rule like llama.cpp's without importance, that yields packed weights (out_features, in_features)."""
    for name, block_format in formats.items():
        weight = _rows(folder.parent, name)
        yield name, PackedWeight(FORMATS[block_format], weight.shape, library.packed(weight, block_format))


def test_each_format_is_a_row_and_the_worse_format_costs_more(project):
    rows = run(project, "--formats", "Q8_0", "Q4_0")
    assert [row["format"] for row in rows] == ["Q4_0", "Q8_0"]
    worse, better = (abs(float(row["damage_llamacpp"])) for row in rows)
    assert better < worse


def test_our_rule_is_given_every_linear_weight_and_scored_by_what_it_packs(project, monkeypatch):
    given: dict[str, str] = {}

    def rule(folder: Path, tokens: Tensor, formats: Mapping[str, str]) -> Iterator[tuple[str, PackedWeight | Tensor]]:
        given.update(formats)
        assert tokens.shape == (2, 256)
        return plain(folder, tokens, formats)

    monkeypatch.setattr(rounding, "ours", rule)
    (row, *_) = (row for row in run(project, "--formats", "Q5_1") if row["format"] == "Q5_1")
    layers = {
        name
        for name, shape in StoredWeights(project / "model").shapes.items()
        if len(shape) == 2 and ("layers" in name or ".h." in name)
    }
    assert set(given) == layers
    texts = artifacts.read_table(project / "prepared/validation.parquet", ["text"])["text"]
    dense = {name: torch.from_numpy(library.rounded(_rows(project, name), "Q5_1")) for name in layers}
    weights = {name: tensor.T if _transposed(name) else tensor for name, tensor in dense.items()}
    expected = rounding.bits_per_byte(project / "model", texts, weights.items()) - float(row["bits_per_byte"])
    assert math.isclose(float(row["damage_ours"]), expected, abs_tol=1e-6)
    assert math.isclose(float(row["ratio"]), float(row["damage_ours"]) / float(row["damage_llamacpp"]), rel_tol=1e-4)


def _transposed(name: str) -> bool:
    return "c_" in name


def _rows(project: Path, name: str) -> np.ndarray:
    weight = StoredWeights(project / "model")[name].float().numpy()
    return weight.T if _transposed(name) else weight


def test_a_format_that_is_unknown_or_fits_nothing_is_refused_before_any_work(project):
    with pytest.raises(UserError, match="unknown weight format 'Q9'"):
        run(project, "--formats", "Q8_0", "Q9")
