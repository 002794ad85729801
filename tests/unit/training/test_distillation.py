"""The fused loss with a teacher is the plain one, over the child's tokens alone, and general text may have a share of its own."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from minigpts import artifacts
from minigpts.errors import UserError
from minigpts.model import checkpoint, forward, loss, packing
from minigpts.model.forward import document_mask
from minigpts.model.packing import IGNORED
from minigpts.training import data, distillation
from tests import tiny
from tests.unit.model.test_loss import assert_same
from tests.unit.stages.test_prune_embeddings import TEXT, Run
from tests.unit.training.test_trainer import RECIPE

IDS = torch.tensor([[2, 9, 4, 30, 11, 2, 7, 8], [2, 5, 2, 3, 3, 17, 40, 2]])
LABELS = torch.where(IDS == 2, IGNORED, IDS)
SECOND = torch.tensor([False, True])  # of the rows is general text


def _child_and_parent(tmp_path, family, seed):
    """A child with every third token of its teacher's, as prune_embeddings maps them."""
    teacher = tiny.write_checkpoint(tmp_path / "teacher", family, seed=seed)
    size = checkpoint.load_config(teacher).vocab_size
    kept = torch.arange(0, size, 3)
    child = checkpoint.load_model(tiny.write_checkpoint(tmp_path / "child", family), torch.float32)
    child.resize_token_embeddings(len(kept))
    parent = checkpoint.load_model(teacher, torch.float32)
    return child, parent, kept


def _backward(model, value):
    model.zero_grad()
    value.backward()
    return value.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def _fused(model, teacher):
    layout = document_mask(model, LABELS == IGNORED)
    with loss.fused_loss(model, teacher.soft_targets(IDS, SECOND, layout)):
        return _backward(model, model(input_ids=IDS, labels=LABELS, **layout).loss)


@pytest.mark.parametrize("family", ["llama", "opt", "phi", "gemma2", "granite"])  # a bias of the head, a cap, a scale
@pytest.mark.parametrize("rows", [1, 3, 100])  # tokens in a slice: one, an odd share, all
@pytest.mark.parametrize("shares", [(0.7, 0.7), (0.3, 1.0), (0.0, 1.0)])  # of the domain's text, of general text
def test_loss_and_gradients_are_those_of_plain_autograd(tmp_path, monkeypatch, family, rows, shares):
    child, parent, kept = _child_and_parent(tmp_path, family, seed=1)
    monkeypatch.setattr(forward, "SLICE_ELEMENTS", rows * child.config.vocab_size)
    value, gradients = _fused(child, distillation.Teacher(parent, kept, *shares))

    layout, counts = document_mask(child, LABELS == IGNORED), LABELS[:, 1:] != IGNORED
    logits = child(input_ids=IDS, **layout).logits[:, :-1][counts]
    with torch.no_grad():
        wanted = parent(input_ids=kept[IDS], **layout).logits[:, :-1][counts][:, kept].log_softmax(-1)
    share = torch.where(SECOND, shares[1], shares[0])[:, None].expand(LABELS[:, 1:].shape)[counts]
    plain = (1 - share) * cross_entropy(logits, LABELS[:, 1:][counts], reduction="none")
    plain += share * kl_div(logits.log_softmax(-1), wanted, reduction="none", log_target=True).sum(-1)
    expected, expected_gradients = _backward(child, plain.mean())
    assert_same(value, gradients, expected, expected_gradients, 1e-4)


def test_a_batch_without_general_text_needs_no_teacher_where_that_has_no_share(tmp_path):
    child, parent, kept = _child_and_parent(tmp_path, "llama", seed=1)
    teacher, layout = distillation.Teacher(parent, kept, 0.0, 1.0), document_mask(child, LABELS == IGNORED)
    assert teacher.soft_targets(IDS, torch.zeros(2, dtype=torch.bool), layout) is None
    assert teacher.soft_targets(IDS, SECOND, layout).share.tolist() == [[0.0] * 8, [1.0] * 8]


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_model_that_teaches_itself_learns_nothing(tmp_path, family):
    model = checkpoint.load_model(tiny.write_checkpoint(tmp_path / "model", family), torch.float32)
    ids = torch.arange(model.config.vocab_size)
    value, gradients = _fused(model, _teacher(tmp_path / "model", ids, 1.0))
    _, others = _fused(model, _teacher(tmp_path / "model", ids, 0.5))
    assert abs(value) < 1e-6
    largest = max(gradient.abs().max() for gradient in others.values())
    assert max(gradient.abs().max() for gradient in gradients.values()) < 1e-4 * largest


def test_a_child_that_lost_only_tokens_is_at_no_distance_from_its_parent_on_general_text(tmp_path):
    """Through the real trim: text of tokens that the child has no longer is spelled in those it has, for both of them."""
    stage = Run(tmp_path, "gemma2")  # the parent, and the domain's counts
    stage()
    child, tokenizer = checkpoint.load_model(stage.out, torch.float32), checkpoint.load_fast_tokenizer(stage.out)
    parents = checkpoint.load_fast_tokenizer(stage.parent)
    general = [f"{word.capitalize()} of a user and an assistant" for word in tiny.WORDS]
    encoded = [[tokenizer.id_to_token(token) for token in tokenizer.encode(text).ids] for text in general]
    assert encoded != [parents.encode(text).tokens for text in general] and child.config.vocab_size < parents.get_vocab_size()
    recipe = replace(RECIPE, sequence_length=40, max_tokens=800, general="parent", general_share=0.5)
    around = packing.boundaries(tokenizer, child.config)
    rows, _ = data.draw_sequences(tokenizer, TEXT, around, recipe, (general, [None] * len(general)))
    batch = data.collate([torch.from_numpy(row) for row in rows])
    general_rows, layout = batch.pop("general"), document_mask(child, batch.pop("begins"))
    assert 0.4 < general_rows.float().mean() < 0.6
    teacher = distillation.load_teacher(stage.parent, stage.out, 0.0, 1.0)
    soft = teacher.soft_targets(batch["input_ids"], general_rows, layout)

    def on(chosen):
        labels = batch["labels"].where(chosen[:, None], IGNORED)
        with loss.fused_loss(child, soft):
            return _backward(child, child(input_ids=batch["input_ids"], labels=labels, **layout).loss)

    distance, gradients = on(general_rows)
    learnt, others = on(~general_rows)
    assert abs(distance) < 1e-5 < learnt
    largest = max(gradient.abs().max() for gradient in others.values())
    assert max(gradient.abs().max() for gradient in gradients.values()) < 1e-4 * largest


def _teacher(folder, ids, share):
    return distillation.Teacher(checkpoint.load_model(folder, torch.float32), ids, share, share)


def test_the_teacher_is_loaded_by_the_childs_index_map(tmp_path):
    teacher = tiny.write_checkpoint(tmp_path / "teacher")
    child = tiny.write_checkpoint(tmp_path / "child", seed=1)
    same = distillation.load_teacher(teacher, child, 0.5, 0.5)  # no map: the vocabulary is whole
    assert torch.equal(same.ids, torch.arange(checkpoint.load_config(teacher).vocab_size))
    size = len(same.ids)
    artifacts.write_table(child / distillation.INDEX_MAP, {"new_id": [-1, *range(size - 1)]})
    with pytest.raises(UserError, match="its token 1 is not token 0"):
        distillation.load_teacher(teacher, child, 0.5, 0.5)
