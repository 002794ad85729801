"""Adapters alone are trained, and what is saved is the stock model they amount to."""

import pytest
import torch

from minigpts.model import checkpoint
from minigpts.training import lora
from tests import tiny

IDS = torch.arange(24).reshape(2, 12)


@pytest.mark.parametrize("family", [*tiny.FAMILIES, "phimoe", "qwen2_moe"])
def test_merged_weights_give_the_adapted_models_logits(tmp_path, family):
    folder = tiny.write_checkpoint(tmp_path / "model", family)
    model, plain = (checkpoint.load_model(folder, torch.float32) for _ in range(2))
    lora.attach(model, rank=3, seed=0)
    assert torch.equal(model(IDS).logits, plain(IDS).logits)  # an adapter starts as zero
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable and all(".lora_" in name for name in trainable)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in sorted(trainable):
            model.get_parameter(name).normal_(0, 0.1, generator=generator)
    adapted = model(IDS).logits
    assert (adapted - plain(IDS).logits).abs().max() > 0.1

    config = checkpoint.load_config(folder)
    with checkpoint.saving(tmp_path / "merged", config, lora.merged_weights(model, torch.float32).items(), companions=folder):
        pass
    merged = checkpoint.load_model(tmp_path / "merged", torch.float32)
    torch.testing.assert_close(merged(IDS).logits, adapted, rtol=1e-4, atol=1e-4 * float(adapted.detach().abs().max()))


def test_the_same_seed_gives_the_same_adapters(tmp_path):
    folder = tiny.write_checkpoint(tmp_path / "model")

    def start(seed: int) -> torch.Tensor:
        model = checkpoint.load_model(folder, torch.float32)
        lora.attach(model, rank=3, seed=seed)
        return model.get_parameter("model.layers.1.mlp.down_proj.lora_A.default.weight")

    assert torch.equal(start(0), start(0)) and not torch.equal(start(0), start(1))


def test_without_adapters_the_weights_are_the_models(tmp_path):
    model = checkpoint.load_model(tiny.write_checkpoint(tmp_path / "model"), torch.float32)
    weights = lora.merged_weights(model, torch.bfloat16)
    for name, tensor in checkpoint.weights_of(model, torch.bfloat16).items():
        assert torch.equal(weights[name], tensor)


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "mixtral", "phimoe", "qwen3_moe", "gpt_oss"])
def test_restored_weights_are_the_models_again(tmp_path, family, rank):
    """Also those that the file has under another name, or in parts."""
    model = checkpoint.load_model(tiny.write_checkpoint(tmp_path / "model", family), torch.float32)
    if rank:
        lora.attach(model, rank=rank, seed=0)
    weights, expected = lora.merged_weights(model, torch.float32), model(IDS).logits
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    lora.restore(model, weights)
    assert torch.equal(model(IDS).logits, expected)
