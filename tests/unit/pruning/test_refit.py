"""The refit of a whole model: for every place a projection can stand in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

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
