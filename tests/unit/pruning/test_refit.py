"""The refit of a whole model: for every place a projection can stand in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from minigpts.budget.damage import in_memory
from minigpts.model import checkpoint
from minigpts.model.experts import has_experts
from minigpts.model.families import spec_for
from minigpts.model.weights import StoredWeights
from minigpts.pruning import cutting, experts, heads, refit
from minigpts.pruning.layers import set_layers
from minigpts.pruning.slicing import AttentionShape, LayerCut, slice_layer
from tests import tiny

NO_NEURONS = torch.empty(0, dtype=torch.int64)
TOKENS = torch.randint(0, 300, (16, 24), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("variant", "layers"), [*((name, (0, 1, 2)) for name in tiny.LAYOUTS), ("llama", (0, 2)), ("opt", (0, 2))])
def test_every_variant_comes_nearer_to_its_parent(variant: str, layers: tuple[int, ...], tmp_path: Path):
    """Half the neurons cut, where heads can go a group of them, and of some a layer: the refitted model's logits are nearer to
    the parent's than the bare cut's, on the text it was fitted on."""
    family, changes = tiny.VARIANTS[variant]
    family_spec = spec_for(family)
    folder = tiny.write_checkpoint(tmp_path / "parent", family, **changes)
    config, stored = checkpoint.load_config(folder), StoredWeights(folder)
    attention = AttentionShape.of(config)
    width = stored.shapes[f"{family_spec.layer(0, family_spec.mlp_out)}.weight"][family_spec.input_axis]
    kept = not family_spec.attention_in or any(getattr(config, field, False) for field in family_spec.head_switches)
    groups = torch.arange(0 if kept or attention.num_groups == 1 else 1, attention.num_groups)
    cuts = [LayerCut(index, torch.arange(0, width, 2), groups) for index in layers]
    child_config = checkpoint.load_config(folder)
    for field, value in {family_spec.width_field: len(cuts[0].neurons), **family_spec.derives}.items():
        setattr(child_config, field, value)
    set_layers(child_config, family_spec, layers)
    heads.set_heads(child_config, family_spec, attention, len(groups))
    parent = checkpoint.load_model(folder, torch.float32)
    whole = logits(parent)

    def child(refitted: Sequence[dict[str, Tensor]]) -> Tensor:
        return logits(cut_model(parent, child_config, cuts, refitted))

    bare = child([{}] * len(cuts))
    changed = list(refit.least_squares(stored, config, child_config, family_spec, cuts, attention, TOKENS))
    assert [index for index, _ in changed] == list(layers)
    assert (child([new for _, new in changed]) - whole).square().mean() < 0.9 * (bare - whole).square().mean()


def test_the_layer_in_front_takes_over_what_a_layer_that_goes_adds(tmp_path: Path):
    """Layer 1 adds the same to every token, and goes: layer 0's bias adds it now, so that layer 2 gets what it always got."""
    folder = tiny.write_checkpoint(tmp_path / "parent", "llama", mlp_bias=True)
    config, family_spec = checkpoint.load_config(folder), spec_for("llama")
    parent = checkpoint.load_model(folder, torch.float32)
    with torch.no_grad():
        for module in (family_spec.attention_out, family_spec.mlp_out):
            parent.get_submodule(family_spec.layer(1, module)).weight.zero_()
        bias = parent.get_submodule(family_spec.layer(1, family_spec.mlp_out)).bias
        bias.copy_(torch.randn(len(bias), generator=torch.Generator().manual_seed(2)))
    parent.save_pretrained(folder)
    stored, attention = StoredWeights(folder), AttentionShape.of(config)
    every_neuron, every_group = torch.arange(config.intermediate_size), torch.arange(attention.num_groups)
    cuts = [LayerCut(index, every_neuron, every_group) for index in (0, 2)]
    child_config = checkpoint.load_config(folder)
    set_layers(child_config, family_spec, (0, 2))
    refitted = [new for _, new in refit.least_squares(stored, config, child_config, family_spec, cuts, attention, TOKENS)]
    bare, repaired = (logits(cut_model(parent, child_config, cuts, new)) for new in ([{}, {}], refitted))
    assert (repaired - logits(parent)).square().mean() < 2e-4 * (bare - logits(parent)).square().mean()


@pytest.mark.parametrize("variant", tiny.MIXTURE_VARIANTS)
def test_the_experts_of_every_mixture_come_nearer_to_its_parent(variant: str, tmp_path: Path):
    """A third of the experts gone, of each group as many: those that stay make up for them, whatever the file looks like."""
    family, changes = tiny.MIXTURE_VARIANTS[variant]
    folder, spec = tiny.write_checkpoint(tmp_path / "parent", family, **changes), spec_for(family)
    config, stored = checkpoint.load_config(folder), StoredWeights(folder)
    attention, number = AttentionShape.of(config), experts.num_experts(config, spec)
    kept = torch.tensor([expert for expert in range(number) if expert % 3])
    of_layer = [kept if has_experts(spec, stored.shapes, index) else kept[:0] for index in range(3)]
    every_group = torch.arange(attention.num_groups)
    cuts = [LayerCut(index, NO_NEURONS, every_group, experts_kept) for index, experts_kept in enumerate(of_layer)]
    child_config = checkpoint.load_config(folder)
    experts.set_experts(child_config, spec, len(kept))
    bare = ((cut.index, slice_layer(stored.under(f"{spec.layers}.{cut.index}"), spec, cut, attention)) for cut in cuts)
    refitted = refit.least_squares(stored, config, child_config, spec, cuts, attention, TOKENS)
    whole = logits(checkpoint.load_model(folder, torch.float32))
    errors = [
        (logits(in_memory(child_config, cutting.named(stored, spec, cuts, changed))) - whole).square().mean()
        for changed in (bare, refitted)
    ]
    assert errors[1] < 0.9 * errors[0]


def cut_model(
    parent: nn.Module, child: PreTrainedConfig, cuts: Sequence[LayerCut], refitted: Sequence[Mapping[str, Tensor]]
) -> nn.Module:
    """The parent cut, with ``refitted`` in the place of the child's tensors, layer by layer."""
    family_spec, attention = spec_for(child.model_type), AttentionShape.of(parent.config)
    stored = parent.state_dict()
    tensors = {name: value for name, value in stored.items() if not name.startswith(f"{family_spec.layers}.")}
    for position, (cut, new) in enumerate(zip(cuts, refitted, strict=True)):
        prefix = f"{family_spec.layers}.{cut.index}."
        whole = {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
        layer = slice_layer(whole, family_spec, cut, attention) | dict(new)
        tensors |= {family_spec.layer(position, name): tensor for name, tensor in layer.items()}
    return filled(child, tensors)


@torch.inference_mode()
def filled(config: PreTrainedConfig, tensors: Mapping[str, Tensor]) -> nn.Module:
    model = checkpoint.empty_model(config, torch.float32)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


@torch.inference_mode()
def logits(model: nn.Module) -> Tensor:
    return model(TOKENS).logits
