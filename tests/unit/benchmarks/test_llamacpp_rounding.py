"""llama.cpp's own rounding, and the importance matrix that weighs it."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from benchmarks.llamacpp import library
from benchmarks.llamacpp.importance import importance
from minigpts.errors import UserError
from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from tests import tiny

# Relative error, at most, of a normal weight: about half a step of the type's grid.
ERRORS = {
    "Q8_0": 0.01,
    "Q5_1": 0.05,
    "Q5_0": 0.06,
    "Q4_1": 0.1,
    "Q4_0": 0.11,
    "IQ4_NL": 0.1,
    "Q6_K": 0.03,
    "Q4_K": 0.1,
    "Q2_K": 0.4,
}


def weight(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(6, 512)).astype(np.float32)


@pytest.mark.parametrize("name", ERRORS)
def test_a_weight_comes_back_from_each_type_near_to_what_it_was(name):
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    found = library.rounded(weight(), name)
    assert library.packed(weight(), name).shape == (6, 512 // block * size)
    assert 0 < np.linalg.norm(found - weight()) / np.linalg.norm(weight()) < ERRORS[name]


@pytest.mark.parametrize("name", ERRORS)
def test_llamacpp_itself_dequantizes_to_the_very_same_numbers(name):
    stored = library.packed(weight(), name)
    found = np.empty_like(weight())
    dequantize = getattr(library.library(), f"dequantize_row_{name.lower().replace('_k', '_K')}")
    dequantize(ctypes.c_void_p(stored.ctypes.data), library.as_floats(found), ctypes.c_int64(found.size))
    np.testing.assert_array_equal(found, library.rounded(weight(), name))


@pytest.mark.parametrize("name", sorted(set(ERRORS) - {"Q8_0"}))  # which has no use for it
def test_importance_moves_the_error_to_where_it_matters_less(name):
    columns = np.random.default_rng(1).exponential(size=512).astype(np.float32) ** 3

    def weighted(found: np.ndarray) -> float:
        return float((columns * (found - weight()) ** 2).sum())

    assert weighted(library.rounded(weight(), name, columns)) < weighted(library.rounded(weight(), name))


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [("Q4_K", 96, "Q4_K takes rows of a multiple of 256 weights, got 96"), ("Q4", 96, "unknown type 'Q4' of llama.cpp")],
)
def test_what_a_type_cannot_hold_is_refused(name, columns, message):
    with pytest.raises(UserError, match=message):
        library.packed(np.zeros((2, columns), dtype=np.float32), name)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_importance_is_the_mean_square_of_each_linear_layers_inputs(family, tmp_path):
    model = checkpoint.load_model(tiny.write_checkpoint(tmp_path / "model", family), torch.float32)
    spec = spec_for(family)
    tokens = torch.randint(3, 200, (5, 48), generator=torch.Generator().manual_seed(0))
    found = importance(model, spec, tokens)
    seen = []
    name = spec.layer(1, spec.mlp_out)
    model.get_submodule(name).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].flatten(0, -2)))
    hidden = model.get_submodule(spec.decoder)(tokens).last_hidden_state.flatten(0, 1)
    with torch.no_grad():
        np.testing.assert_allclose(found[name], seen[0].square().mean(0).numpy(), rtol=1e-5)
        np.testing.assert_allclose(found[spec.lm_head], hidden.square().mean(0).numpy(), rtol=1e-5)
    linears = [part for part, module in model.named_modules() if type(module).__name__ in ("Linear", "Conv1D")]
    assert set(found) == {part for part in linears if part.startswith(spec.layers)} | {spec.lm_head}
