"""Loss and gradients without logits are the stock model's."""

import pytest
import torch

from minigpts.model import checkpoint, forward, loss
from minigpts.model.packing import IGNORED
from tests import tiny


def _gradients(model, ids):
    model.zero_grad()
    labels = torch.where(ids % 3 == 0, IGNORED, ids)
    value = model(input_ids=ids, labels=labels, num_items_in_batch=torch.tensor(2.0 * ids.numel())).loss
    (3 * value).backward()
    return value.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def _ids(model):
    return torch.randint(model.config.vocab_size, (3, 11), generator=torch.Generator().manual_seed(1))


def assert_loss_is_stock(model, tolerance):
    ids = _ids(model)
    expected, expected_gradients = _gradients(model, ids)
    with loss.fused_loss(model):
        value, gradients = _gradients(model, ids)
    assert_same(value, gradients, expected, expected_gradients, tolerance)


def assert_same(value, gradients, expected, expected_gradients, tolerance):
    torch.testing.assert_close(value, expected, rtol=tolerance / 10, atol=0)
    largest = max(gradient.abs().max() for gradient in expected_gradients.values())
    for name, gradient in gradients.items():
        scale = expected_gradients[name].abs().max().clamp(min=1e-2 * largest)  # some are zero but for rounding
        torch.testing.assert_close(gradient / scale, expected_gradients[name] / scale, rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("family", ["llama", "opt", "gemma2", "granite"])  # gemma2 caps its logits, granite divides them
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("rows", [1, 7, 100])  # tokens in a slice: one, an odd share, all
def test_tied_or_not_in_slices_of_any_size(tmp_path, monkeypatch, family, tied, rows):
    folder = tiny.write_checkpoint(tmp_path / "model", family, tie_word_embeddings=tied)
    model = checkpoint.load_model(folder, torch.float32)
    monkeypatch.setattr(forward, "SLICE_ELEMENTS", rows * model.config.vocab_size)
    assert_loss_is_stock(model, 1e-4)


def test_a_head_with_a_bias(tmp_path):
    model = checkpoint.load_model(tiny.write_checkpoint(tmp_path / "model", "phi"), torch.float32)
    assert model.lm_head.bias.abs().min() > 0
    assert_loss_is_stock(model, 1e-4)


def test_under_autocast(tmp_path):
    model = checkpoint.load_model(tiny.write_checkpoint(tmp_path / "model"), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert_loss_is_stock(model, 0.05)


def test_frozen_heads_get_no_gradient(tmp_path):
    model = checkpoint.load_model(tiny.write_checkpoint(tmp_path / "model"), torch.float32)
    ids = _ids(model)
    _, expected = _gradients(model, ids)
    model.get_output_embeddings().weight.requires_grad_(False)
    model.zero_grad()
    with loss.fused_loss(model):
        labels = torch.where(ids % 3 == 0, IGNORED, ids)
        (3 * model(input_ids=ids, labels=labels, num_items_in_batch=torch.tensor(2.0 * ids.numel())).loss).backward()
    assert model.get_output_embeddings().weight.grad is None
    name = "model.layers.0.mlp.down_proj.weight"
    torch.testing.assert_close(model.get_parameter(name).grad, expected[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_model_is_itself_again_afterwards(tmp_path, family):
    model = checkpoint.load_model(tiny.write_checkpoint(tmp_path / "model", family), torch.float32)
    ids = torch.arange(12)[None]
    before = model(ids, labels=ids)
    with loss.fused_loss(model):
        assert model(ids, labels=ids).logits.shape[-1] == model.config.hidden_size
    after = model(ids, labels=ids)
    assert torch.equal(after.logits, before.logits) and torch.equal(after.loss, before.loss)
