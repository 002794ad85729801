"""Least squares with a ridge: the textbook's solution, at the strength that predicts text it wasn't fitted on best."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from minigpts.pruning import ridge


def samples(sequences: int, noise: float, seed: int = 0) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Inputs of very different loudness, and targets that a planted matrix makes of them, with noise."""
    generator = torch.Generator().manual_seed(seed)
    given = torch.randn(sequences, 10, 9, generator=generator) * torch.logspace(-2, 1, 9)
    planted = torch.randn(5, 9, generator=generator)
    target = given @ planted.T + noise * torch.randn(sequences, 10, 5, generator=generator)
    return list(zip(given.split(3), target.split(3), strict=True)), planted


def ridge_solution(given: Tensor, target: Tensor, prior: Tensor, strength: float) -> np.ndarray:
    """The definition, as one stacked least-squares problem: the pull is a row for every input."""
    a, t, w = (tensor.double().numpy() for tensor in (given, target, prior))
    pull = np.diag(np.sqrt(strength * (a**2).sum(0)))
    return np.linalg.lstsq(np.vstack([a, pull]), np.vstack([t, pull @ w.T]), rcond=None)[0].T


@pytest.mark.parametrize("block_columns", [4, 1024])
def test_every_solution_is_the_stacked_problems(monkeypatch: pytest.MonkeyPatch, block_columns: int):
    """… also after others were taken from the same sums, whose Gram matrix is overwritten and restored."""
    monkeypatch.setattr(ridge, "BLOCK_COLUMNS", block_columns)
    batches, _ = samples(6, noise=0.5)
    given, target = (torch.cat(parts).flatten(0, 1) for parts in zip(*batches, strict=True))
    prior = torch.randn(5, 9, generator=torch.Generator().manual_seed(3))
    sums = ridge.Sums(prior)
    sums.add(given, target)
    for strength, last in ((1e-2, False), (1.0, False), (1e-2, True)):
        expected = ridge_solution(given, target, prior, strength)
        np.testing.assert_allclose(sums.solve(strength, last).numpy(), expected, rtol=1e-3, atol=1e-4)


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
    aside = torch.arange(1, 25) % ridge.HELD_BACK_EVERY == 0
    fit, held = ((given[which].flatten(0, 1), target[which].flatten(0, 1)) for which in (~aside, aside))

    def error(strength: float) -> float:
        return float((held[1] - held[0] @ torch.from_numpy(ridge_solution(*fit, prior, strength)).float().T).square().sum())

    strength = min(ridge.RIDGES, key=error)
    assert strength > min(ridge.RIDGES), "noise calls for a pull"
    with torch.no_grad():
        ridge.refit_projection(projection, False, batches)
    fitted = projection.weight if not bias else torch.cat([projection.weight, projection.bias[:, None]], 1)
    expected = ridge_solution(given.flatten(0, 1), target.flatten(0, 1), prior, strength)
    np.testing.assert_allclose(fitted.detach().numpy(), expected, rtol=1e-3, atol=1e-5)


def test_clean_text_calls_for_the_weakest_pull():
    batches, planted = samples(24, noise=0.0)
    projection = nn.Linear(9, 5, bias=False)
    with torch.no_grad():
        ridge.refit_projection(projection, False, batches)
    assert (projection.weight - planted).abs().max() < 0.05 * planted.abs().max()
