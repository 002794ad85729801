"""The fused loss with a teacher is the plain one, over the child's tokens alone."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from minigpts import artifacts
from minigpts.errors import UserError
from minigpts.model import checkpoint, forward, loss
from minigpts.model.forward import document_mask
from minigpts.model.packing import IGNORED
from minigpts.training import distillation
from tests import tiny
from tests.unit.model.test_loss import assert_same

IDS = torch.tensor([[2, 9, 4, 30, 11, 2, 7, 8], [2, 5, 2, 3, 3, 17, 40, 2]])
LABELS = torch.where(IDS == 2, IGNORED, IDS)


def _child_and_teacher(tmp_path, family, seed):
    """A child with every third token of its teacher's, as prune_embeddings maps them."""
    teacher = tiny.write_checkpoint(tmp_path / "teacher", family, seed=seed)
    size = checkpoint.load_config(teacher).vocab_size
    kept = torch.arange(0, size, 3)
    child = checkpoint.load_model(tiny.write_checkpoint(tmp_path / "child", family), torch.float32)
    child.resize_token_embeddings(len(kept))
    parent = checkpoint.load_model(teacher, torch.float32)
    return child, distillation.Teacher(parent, kept, 0.7), parent, kept


def _backward(model, value):
    model.zero_grad()
    value.backward()
    return value.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def _fused(model, teacher):
    layout = document_mask(model, LABELS == IGNORED)
    with loss.fused_loss(model, teacher.soft_targets(IDS, layout)):
        return _backward(model, model(input_ids=IDS, labels=LABELS, **layout).loss)


@pytest.mark.parametrize("family", ["llama", "opt", "phi", "gemma2"])  # phi's head has a bias, gemma2 caps its logits
@pytest.mark.parametrize("rows", [1, 3, 100])  # tokens in a slice: one, an odd share, all
def test_loss_and_gradients_are_those_of_plain_autograd(tmp_path, monkeypatch, family, rows):
    child, teacher, parent, kept = _child_and_teacher(tmp_path, family, seed=1)
    monkeypatch.setattr(forward, "SLICE_ELEMENTS", rows * child.config.vocab_size)
    value, gradients = _fused(child, teacher)

    layout, counts = document_mask(child, LABELS == IGNORED), LABELS[:, 1:] != IGNORED
    logits = child(input_ids=IDS, **layout).logits[:, :-1][counts]
    with torch.no_grad():
        wanted = parent(input_ids=kept[IDS], **layout).logits[:, :-1][counts][:, kept].softmax(-1)
    plain = 0.3 * cross_entropy(logits, LABELS[:, 1:][counts]) + 0.7 * cross_entropy(logits, wanted)
    expected, expected_gradients = _backward(child, plain)
    assert_same(value, gradients, expected, expected_gradients, 1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_model_that_teaches_itself_learns_nothing(tmp_path, family):
    model = checkpoint.load_model(tiny.write_checkpoint(tmp_path / "model", family), torch.float32)
    ids = torch.arange(model.config.vocab_size)
    itself = distillation.Teacher(checkpoint.load_model(tmp_path / "model", torch.float32), ids, 1.0)
    _, gradients = _fused(model, itself)
    _, others = _fused(model, distillation.Teacher(checkpoint.load_model(tmp_path / "model", torch.float32), ids, 0.5))
    largest = max(gradient.abs().max() for gradient in others.values())
    assert max(gradient.abs().max() for gradient in gradients.values()) < 1e-4 * largest


def test_the_teacher_is_loaded_by_the_childs_index_map(tmp_path):
    teacher = tiny.write_checkpoint(tmp_path / "teacher")
    child = tiny.write_checkpoint(tmp_path / "child", seed=1)
    same = distillation.load_teacher(teacher, child, 0.5)  # no map: the vocabulary is whole
    assert torch.equal(same.ids, torch.arange(checkpoint.load_config(teacher).vocab_size))
    size = len(same.ids)
    artifacts.write_table(child / distillation.INDEX_MAP, {"new_id": [-1, *range(size - 1)]})
    with pytest.raises(UserError, match="its token 1 is not token 0"):
        distillation.load_teacher(teacher, child, 0.5)
