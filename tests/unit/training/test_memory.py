"""What can't fit is refused in one line that names what does."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest
import torch

from minigpts import params, ranks
from minigpts.errors import UserError
from minigpts.training import memory
from minigpts.training.recipe import Recipe
from tests.e2e.project import ROOT

RECIPE = params.read(ROOT / "params.yaml", Recipe, "finetune")
SHAPES = {
    "model.embed_tokens.weight": (1000, 1000),
    "lm_head.weight": (1000, 1000),
    "model.layers.0.mlp.up_proj.weight": (8000, 1000),
}
FULL, ADAPTERS = 4 * 10_000_000 + 12 * 8_000_000, 4 * 10_000_000


@pytest.mark.parametrize(
    ("free", "rank", "refused"),
    [
        (FULL, 0, None),
        (FULL - 1, 0, r"^tuning 8 M of 10 M weights needs at least 0\.1 GB of memory, .*; finetune\.lora_rank fits in 0\.0 GB"),
        (ADAPTERS - 1, 0, r"; a smaller child, or share the weights among more processes \(docs/scale\.md\)"),
        (ADAPTERS, 8, None),
        (ADAPTERS - 1, 8, r"^tuning adapters of 10 M weights needs at least 0\.0 GB of memory, .*; a smaller child"),
    ],
)
def test_weights_gradients_and_moments_must_fit(free: int, rank: int, refused: str | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    recipe = replace(RECIPE, lora_rank=rank)
    if refused is None:
        memory.require_fit(recipe, "llama", SHAPES, torch.device("cpu"))
        return
    with pytest.raises(UserError, match=refused):
        memory.require_fit(recipe, "llama", SHAPES, torch.device("cpu"))
    monkeypatch.setattr(ranks, "count", lambda: 2)
    memory.require_fit(recipe, "llama", SHAPES, torch.device("cpu"))
