"""Least squares for one projection, whose strength of regularization is chosen on text that is held back from the fit.

The ridge pulls towards the weights as they were, in proportion to how loud each input is; once its strength is chosen, all of
the text is fitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from scipy.linalg import cho_factor, cho_solve
from torch import Tensor, nn

# Strengths of the pull towards the weights as they were, relative to the sum of squares of each input: how strong it has to be
# depends on how much text there is for how many inputs.
RIDGES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)
RIDGE = 1e-1  # where there is too little text to hold any back

HELD_BACK_EVERY = 8  # the eighth sequence, the sixteenth, … are held back, …
HELD_BACK_TOKENS = 4096  # … up to this many tokens, which are kept as they are

BLOCK_ROWS = 64  # of the right-hand sides, made at a time
BLOCK_COLUMNS = 1024  # of the activations, multiplied at a time: the fp32 product of all would be half a Gram matrix more


def refit_projection(projection: nn.Linear, transposed: bool, samples: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Fit weight and bias of a linear layer, in place. ``samples`` are batches of its inputs, (sequences, length, in_features),
    and of what it should give for them, (sequences, length, out_features)."""
    weight = projection.weight.T if transposed else projection.weight  # (out_features, in_features); a view, written to below
    prior = weight if projection.bias is None else torch.cat([weight, projection.bias[:, None]], 1)  # its input is 1

    def rows() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        seen = 0  # sequences
        for given, target in samples:
            if projection.bias is not None:
                given = torch.cat([given, given.new_ones(*given.shape[:-1], 1)], -1)
            yield given.flatten(0, 1), target.flatten(0, 1), held_back(seen, given)
            seen += len(given)

    solved = fit(prior, rows())
    weight.copy_(solved[:, : weight.shape[1]])
    if projection.bias is not None:
        projection.bias.copy_(solved[:, -1])


def held_back(seen: int, given: Tensor) -> Tensor:
    """Which tokens of a batch (sequences, length, features) behind ``seen`` sequences the strength is chosen on: bool (tokens,)."""
    numbers, length = torch.arange(seen + 1, seen + 1 + len(given), device=given.device), given.shape[1]
    aside = (numbers % HELD_BACK_EVERY == 0) & (numbers * length <= HELD_BACK_EVERY * HELD_BACK_TOKENS)
    return aside.repeat_interleave(length)


def fit(prior: Tensor, samples: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """The weights (out, in) that map inputs (tokens, in) to targets (tokens, out), pulled towards ``prior``.

    The third of each sample says which tokens are held back: bool (tokens,).
    """
    fitted, aside = Sums(prior), HeldBack()
    for inputs, targets, which in samples:
        aside.add(inputs[which], targets[which])
        fitted.add(inputs[~which], targets[~which])
    return fitted.solve(aside.choose(fitted), last=True)


class HeldBack:
    """Calibration sequences that the strength of the ridge is chosen on."""

    def __init__(self) -> None:
        """Nothing is held back yet."""
        self.kept: list[tuple[Tensor, Tensor]] = []

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """``inputs`` (tokens, in), ``targets`` (tokens, out)."""
        if len(inputs):
            self.kept.append((inputs, targets))

    def choose(self, fitted: Sums) -> float:
        """The ridge under which what ``fitted`` holds predicts these targets best; then ``fitted`` holds these too."""
        if not self.kept:
            return RIDGE
        errors = {ridge: self._error(fitted.solve(ridge)) for ridge in RIDGES}
        for inputs, targets in self.kept:
            fitted.add(inputs, targets)
        return min(errors, key=errors.__getitem__)

    def _error(self, weight: Tensor) -> float:
        weight = weight.float()
        return sum(float((targets - inputs @ weight.T).square().sum()) for inputs, targets in self.kept)


class Sums:
    """Σ a aᵀ (in, in) and Σ t aᵀ (out, in) over inputs a and targets t: all that least squares needs of the text."""

    def __init__(self, prior: Tensor) -> None:
        """``prior`` (out, in): the weights to pull towards."""
        size = prior.shape[1]
        self.prior = prior
        self.gram = torch.zeros(size, size, dtype=torch.float64, device=prior.device)
        self.cross = torch.zeros(prior.shape, dtype=torch.float64, device=prior.device)

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """``inputs`` (tokens, in), ``targets`` (tokens, out)."""
        for start in range(0, len(self.gram), BLOCK_COLUMNS):
            block = slice(start, start + BLOCK_COLUMNS)
            self.gram[block] += inputs[:, block].T @ inputs
        self.cross += targets.T @ inputs

    def solve(self, ridge: float, last: bool = False) -> Tensor:
        """argmin_W Σ‖t − W a‖² + Σ_j λ_j ‖W_j − prior_j‖², λ_j = ``ridge`` · Σ a_j²: the pull is as strong for a quiet input as
        for a loud one, and directions that the text doesn't show stay as they were. (out, in)

        The ``last`` solution uses up the sums.
        """
        gram, diagonal = self.gram, self.gram.diagonal().clone()
        strengths = ridge * diagonal + torch.finfo(gram.dtype).tiny ** 0.5
        right = self.cross if last else self.cross.clone()
        for rows, prior in zip(right.split(BLOCK_ROWS), self.prior.split(BLOCK_ROWS), strict=True):
            rows.addcmul_(prior.double(), strengths)  # in parts: in fp64 the whole prior is as large as the sums
        gram.diagonal().add_(strengths)
        if gram.device.type == "cpu":
            # SciPy factors and solves in place (of column-major arrays, which the transposes are); torch would copy both. What
            # it overwrites is one triangle: the other one restores it.
            factor = cho_factor(gram.numpy().T, lower=True, overwrite_a=True, check_finite=False)
            solution = torch.from_numpy(cho_solve(factor, right.numpy().T, overwrite_b=True, check_finite=False).T)
            if not last:
                self._restore(diagonal)
        else:
            solution = torch.cholesky_solve(right.T, torch.linalg.cholesky(gram)).T
            gram.diagonal().copy_(diagonal)
        return solution

    def _restore(self, diagonal: Tensor) -> None:
        for start in range(0, len(self.gram), BLOCK_COLUMNS):
            end = start + BLOCK_COLUMNS
            square = self.gram[start:end, start:end].tril(-1)
            self.gram[start:end, start:end] = square + square.T
            self.gram[start:end, end:] = self.gram[end:, start:end].T
        self.gram.diagonal().copy_(diagonal)
