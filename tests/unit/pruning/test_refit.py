"""The refit: exact where it can be, chosen on text it wasn't fitted on, and for every place a projection can stand in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from minigpts import checkpoint
from minigpts.architectures.registry import spec_for
from minigpts.pruning import heads, refit
from minigpts.pruning.layers import set_layers
from minigpts.pruning.slicing import AttentionShape, LayerCut, slice_layer
from tests import tiny

TOKENS = torch.randint(0, 300, (16, 24), generator=torch.Generator().manual_seed(1))


def samples(sequences: int, noise: float, seed: int = 0) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Inputs of very different loudness, and targets that a planted matrix makes of them, with noise."""
    generator = torch.Generator().manual_seed(seed)
    given = torch.randn(sequences, 10, 9, generator=generator) * torch.logspace(-2, 1, 9)
    planted = torch.randn(5, 9, generator=generator)
    target = given @ planted.T + noise * torch.randn(sequences, 10, 5, generator=generator)
    return list(zip(given.split(3), target.split(3), strict=True)), planted


def ridge_solution(given: Tensor, target: Tensor, prior: Tensor, ridge: float) -> np.ndarray:
    """The definition, as one stacked least-squares problem: the pull is a row for every input."""
    a, t, w = (tensor.double().numpy() for tensor in (given, target, prior))
    pull = np.diag(np.sqrt(ridge * (a**2).sum(0)))
    return np.linalg.lstsq(np.vstack([a, pull]), np.vstack([t, pull @ w.T]), rcond=None)[0].T


@pytest.mark.parametrize("block_columns", [4, 1024])
def test_every_solution_is_the_stacked_problems(monkeypatch: pytest.MonkeyPatch, block_columns: int):
    """… also after others were taken from the same sums, whose Gram matrix is overwritten and restored."""
    monkeypatch.setattr(refit, "BLOCK_COLUMNS", block_columns)
    batches, _ = samples(6, noise=0.5)
    given, target = (torch.cat(parts).flatten(0, 1) for parts in zip(*batches, strict=True))
    prior = torch.randn(5, 9, generator=torch.Generator().manual_seed(3))
    sums = refit._Sums(prior)
    sums.add(given, target)
    for ridge, last in ((1e-2, False), (1.0, False), (1e-2, True)):
        expected = ridge_solution(given, target, prior, ridge)
        np.testing.assert_allclose(sums.solve(ridge, last).numpy(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bias", [False, True])
def test_a_projection_becomes_the_ridge_solution_of_all_the_text(bias: bool):
    """With the strength that predicts the held-back sequences best, found here by trying each."""
    batches, _ = samples(24, noise=30.0)
    projection = nn.Linear(9, 5, bias=bias)
    given, target = (torch.cat(parts) for parts in zip(*batches, strict=True))
    prior = projection.weight.detach().clone()
    if bias:
        given = torch.cat([given, torch.ones(*given.shape[:-1], 1)], -1)
        prior = torch.cat([prior, projection.bias.detach()[:, None]], 1)
    aside = torch.arange(1, 25) % refit.HELD_BACK_EVERY == 0
    fit, held = ((given[which].flatten(0, 1), target[which].flatten(0, 1)) for which in (~aside, aside))

    def error(ridge: float) -> float:
        return float((held[1] - held[0] @ torch.from_numpy(ridge_solution(*fit, prior, ridge)).float().T).square().sum())

    ridge = min(refit.RIDGES, key=error)
    assert ridge > min(refit.RIDGES), "noise calls for a pull"
    with torch.no_grad():
        refit.refit_projection(projection, False, batches)
    fitted = projection.weight if not bias else torch.cat([projection.weight, projection.bias[:, None]], 1)
    expected = ridge_solution(given.flatten(0, 1), target.flatten(0, 1), prior, ridge)
    np.testing.assert_allclose(fitted.detach().numpy(), expected, rtol=1e-3, atol=1e-5)


def test_clean_text_calls_for_the_weakest_pull():
    batches, planted = samples(24, noise=0.0)
    projection = nn.Linear(9, 5, bias=False)
    with torch.no_grad():
        refit.refit_projection(projection, False, batches)
    assert (projection.weight - planted).abs().max() < 0.05 * planted.abs().max()


@pytest.mark.parametrize(
    ("variant", "layers"), [*((name, (0, 1, 2)) for name in tiny.VARIANTS), ("llama", (0, 2)), ("opt", (0, 2))]
)
def test_every_variant_comes_nearer_to_its_parent(variant: str, layers: tuple[int, ...], tmp_path: Path):
    """Half the neurons cut, where heads can go a group of them, and of some a layer: the refitted model's logits are nearer to
    the parent's than the bare cut's, on the text it was fitted on, however many sequences go through at a time."""
    family, changes = tiny.VARIANTS[variant]
    family_spec = spec_for(family)
    folder = tiny.write_checkpoint(tmp_path / "parent", family, **changes)
    config, stored = checkpoint.load_config(folder), checkpoint.StoredWeights(folder)
    attention = AttentionShape.of(config)
    width = stored.shapes[f"{family_spec.layer(0, family_spec.mlp_out)}.weight"][family_spec.input_axis]
    groups = torch.arange(1 if family_spec.attention_in and attention.num_groups > 1 else 0, attention.num_groups)
    cuts = [LayerCut(index, torch.arange(0, width, 2), groups) for index in layers]
    child_config = checkpoint.load_config(folder)
    setattr(child_config, family_spec.width_field, len(cuts[0].neurons))
    set_layers(child_config, family_spec, layers)
    heads.set_heads(child_config, family_spec, attention, len(groups))
    parent = checkpoint.load_model(folder, torch.float32)
    whole = logits(parent)

    def child(refitted: Sequence[dict[str, Tensor]]) -> Tensor:
        tensors = {name: value for name, value in parent.state_dict().items() if not name.startswith(f"{family_spec.layers}.")}
        for position, (cut, new) in enumerate(zip(cuts, refitted, strict=True)):
            layer = slice_layer(stored.under(f"{family_spec.layers}.{cut.index}"), family_spec, cut, attention) | new
            tensors |= {family_spec.layer(position, name): tensor for name, tensor in layer.items()}
        return logits(filled(child_config, tensors))

    bare = child([{}] * len(cuts))
    for rows in (1, 16):
        refitted = child(list(refit.least_squares(stored, config, child_config, family_spec, cuts, attention, TOKENS, rows)))
        assert (refitted - whole).square().mean() < 0.9 * (bare - whole).square().mean()


@torch.inference_mode()
def filled(config: PreTrainedConfig, tensors: Mapping[str, Tensor]) -> nn.Module:
    model = checkpoint.empty_model(config, torch.float32)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


@torch.inference_mode()
def logits(model: nn.Module) -> Tensor:
    return model(TOKENS).logits
