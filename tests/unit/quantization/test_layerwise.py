"""Rounding a whole model, for every family."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from minigpts.model.weights import StoredWeights
from minigpts.quantization.formats import FORMATS
from minigpts.quantization.groups import GROUPS, formats_of
from minigpts.quantization.layerwise import rounded_weights
from minigpts.quantization.rounding import Cost, rounded
from tests import tiny

TOKENS = torch.randint(0, 300, (24, 24), generator=torch.Generator().manual_seed(1))
Q4_0 = FORMATS["Q4_0"]


@pytest.mark.parametrize("variant", tiny.LAYOUTS)
def test_every_variant_comes_nearer_than_without_compensation(variant: str, tmp_path: Path):
    """Every matrix whose rows are blocks is rounded, its rows output features; the logits on the calibration text are nearer to
    the unrounded model's than those of the same format without compensation."""
    family, changes = tiny.VARIANTS[variant]
    sizes: dict[str, int] = {"hidden_size": 64, spec_for(family).width_field: 96, "num_attention_heads": 4}
    if "num_attention_heads" in changes:
        sizes |= {"num_key_value_heads": 4}
    if "head_dim" in {**tiny.FAMILIES[family], **changes}:
        sizes["head_dim"] = 16
    folder = tiny.write_checkpoint(tmp_path / "child", family, **{**changes, **sizes})
    config, stored, spec = checkpoint.load_config(folder), StoredWeights(folder), spec_for(family)

    def turned(name: str, weight: Tensor) -> Tensor:  # to rows of output features, and back
        return weight.T if spec.transposed and name.startswith(spec.layers) else weight

    matrices = {name: turned(name, stored[name]) for name, shape in stored.shapes.items() if len(shape) == 2}
    matrices = {name: weight for name, weight in matrices.items() if weight.shape[1] % 32 == 0 and "position" not in name}
    matrices.pop("transformer.wpe.weight", None)  # positions
    formats = dict.fromkeys(matrices, Q4_0)
    whole = logits(folder, {})
    alone = {name: rounded(weight, Q4_0, Cost(torch.eye(weight.shape[1])), 0).values() for name, weight in matrices.items()}
    together = {name: blocks.values() for name, blocks in rounded_weights(stored, config, spec, formats, TOKENS)}
    assert set(together) >= {name for name in matrices if "project" not in name}
    plain, better = (logits(folder, {name: turned(name, v) for name, v in values.items()}) for values in (alone, together))
    assert (better - whole).square().mean() < 0.9 * (plain - whole).square().mean()


@torch.inference_mode()
def logits(folder: Path, replaced: Mapping[str, Tensor]) -> Tensor:
    """The logits of a checkpoint on the calibration text, some of its tensors replaced."""
    model = checkpoint.load_model(folder, torch.float32)
    for name, tensor in replaced.items():
        checkpoint.set_tensor(model, name, tensor.contiguous())
    model.tie_weights()
    return model(input_ids=TOKENS).logits


@pytest.mark.parametrize("family", ["qwen2_moe", "glm4_moe"])
def test_a_shared_expert_and_dense_layers_of_a_mixture_are_rounded_as_mlps(tmp_path: Path, family: str):
    sizes = {"hidden_size": 64, "intermediate_size": 64, "moe_intermediate_size": 32, "num_hidden_layers": 2}
    shared = (
        {"shared_expert_intermediate_size": 64} if family == "qwen2_moe" else {"first_k_dense_replace": 1, "n_shared_experts": 2}
    )
    folder = tiny.write_checkpoint(tmp_path / family, family, **sizes, **shared)
    config, stored = checkpoint.load_config(folder), StoredWeights(folder)
    formats = formats_of(family, stored.shapes, dict.fromkeys(GROUPS, "Q8_0"))
    found = dict(rounded_weights(stored, config, spec_for(family), formats, TOKENS[:2]))
    assert found.keys() == formats.keys()
    left = [name for name, shape in stored.shapes.items() if len(shape) == 2 and name not in formats]
    assert all(name.endswith(("gate.weight", "shared_expert_gate.weight")) for name in left), left  # routers
    beside = [name for name in found if "shared_expert" in name or (".mlp." in name and ".experts." not in name)]
    assert len(beside) == 6
    for name in beside:
        assert (found[name].values() - stored[name].float()).abs().max() < 0.05


def test_every_weight_of_a_mixture_is_rounded_its_experts_to_the_nearest(tmp_path: Path):
    sizes = {"hidden_size": 64, "moe_intermediate_size": 32, "head_dim": 16, "num_hidden_layers": 1}
    folder = tiny.write_checkpoint(tmp_path / "mixture", "qwen3_moe", **sizes)
    config, stored = checkpoint.load_config(folder), StoredWeights(folder)
    formats = formats_of("qwen3_moe", stored.shapes, dict.fromkeys(GROUPS, "Q8_0"))
    found = dict(rounded_weights(stored, config, spec_for("qwen3_moe"), formats, TOKENS[:2]))
    assert found.keys() == formats.keys()
    experts = [name for name in found if ".experts." in name]
    assert len(experts) == 9 * 3
    for name in experts:
        weight = stored[name].float()
        assert torch.equal(found[name].values(), rounded(weight, formats[name], Cost(torch.eye(weight.shape[1]))).values())
