"""Other libraries' pruning of MLP neurons, on the same model and text, at the same share of every layer: the extra ``peers``.

Used as their own documentation does: OptiPFair 0.4.2 in its data-driven mode, and Torch-Pruning 1.6.1 by its dependency graph,
whose group of an MLP's first projection takes gate, up and down together and leaves attention and the residual stream alone.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor
from transformers import PreTrainedModel

from minigpts.errors import UserError
from minigpts.model.spec import ArchitectureSpec

TRACED_TOKENS = 8  # of the input that Torch-Pruning traces the graph with

Peer = Callable[[PreTrainedModel, ArchitectureSpec, Tensor, float], PreTrainedModel]


def require() -> None:
    """Raise a UserError unless the libraries are installed."""
    missing = [name for name in ("torch_pruning", "optipfair") if find_spec(name) is None]
    if missing:
        raise UserError(f"--peers needs {' and '.join(missing)}; run: pip install -e '.[peers]'")


def optipfair(model: PreTrainedModel, spec: ArchitectureSpec, tokens: Tensor, ratio: float) -> PreTrainedModel:
    """MAW with a dataloader: ranges of the weights × norms of the activations (arXiv 2512.22671). Gated MLPs only."""
    from optipfair import prune_model
    from torch.utils.data import DataLoader, TensorDataset

    loader = DataLoader(TensorDataset(tokens), batch_size=4)
    return prune_model(model, neuron_selection_method="MAW", pruning_percentage=100 * ratio, dataloader=loader, show_progress=False)


def torch_pruning_magnitude(model: PreTrainedModel, spec: ArchitectureSpec, tokens: Tensor, ratio: float) -> PreTrainedModel:
    """GroupMagnitudeImportance, L2."""
    import torch_pruning

    return _torch_pruning(model, spec, tokens, ratio, torch_pruning.importance.GroupMagnitudeImportance(p=2))


def torch_pruning_taylor(model: PreTrainedModel, spec: ArchitectureSpec, tokens: Tensor, ratio: float) -> PreTrainedModel:
    """GroupTaylorImportance: |w · ∂L/∂w| over all of the calibration text."""
    import torch_pruning

    for batch in tokens.split(1):
        model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
    pruned = _torch_pruning(model, spec, tokens, ratio, torch_pruning.importance.GroupTaylorImportance())
    pruned.zero_grad()
    return pruned


def _torch_pruning(
    model: PreTrainedModel, spec: ArchitectureSpec, tokens: Tensor, ratio: float, importance: Callable[..., Tensor]
) -> PreTrainedModel:
    """Score every group, then cut: the same number of neurons from each layer, the lowest."""
    import torch_pruning

    inputs = {"input_ids": tokens[:1, :TRACED_TOKENS], "use_cache": False}
    graph = torch_pruning.DependencyGraph()
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")  # the norms' gains have no group of their own, and aren't cut
        graph.build_dependency(model, inputs, output_transform=lambda output: output.logits)
    for index in range(model.config.num_hidden_layers):
        makes = model.get_submodule(spec.layer(index, spec.mlp_in[0]))
        whole = graph.get_pruning_group(makes, torch_pruning.prune_linear_out_channels, list(range(makes.out_features)))
        lowest = torch.argsort(importance(whole))[: round(makes.out_features * ratio)].tolist()
        graph.get_pruning_group(makes, torch_pruning.prune_linear_out_channels, sorted(lowest)).prune()
    model.config.intermediate_size = makes.out_features
    return model


PEERS: dict[str, Peer] = {
    "optipfair": optipfair,
    "torch-pruning l2": torch_pruning_magnitude,
    "torch-pruning taylor": torch_pruning_taylor,
}
