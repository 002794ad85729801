"""Documents are drawn in seeded order, no more than the budget takes, and share rows without seeing one another."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import processors

from minigpts.errors import UserError
from minigpts.evaluation import language_modeling
from minigpts.model import checkpoint, packing
from minigpts.model.forward import document_mask
from minigpts.model.loss import fused_loss
from minigpts.model.packing import IGNORED, Boundaries
from minigpts.training import data
from tests import tiny
from tests.unit.model.test_packing import documents_in
from tests.unit.training.test_trainer import RECIPE

AROUND = Boundaries(bos=1, end=2)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_documents_in_a_row_are_scored_as_each_alone(tmp_path, family):
    model = checkpoint.load_model(tiny.write_checkpoint(tmp_path / "model", family), torch.float32)
    tokenizer, texts = checkpoint.load_fast_tokenizer(tmp_path / "model"), tiny.sentences(9)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{tiny.SPECIAL[1]} $A", special_tokens=[(tiny.SPECIAL[1], 1)])
    rows, share = data.draw_sequences(tokenizer, texts, AROUND, replace(RECIPE, sequence_length=100, max_tokens=10**6))
    assert share == 1.0 and len(rows) < len(texts) / 2
    batch = data.collate([torch.from_numpy(row) for row in rows])
    batch = data.one_document_a_row(batch) if family in tiny.HYBRIDS else batch
    count, _ = (batch["labels"] != IGNORED).sum(), batch.pop("general")
    with fused_loss(model):
        loss = model(**batch, **document_mask(model, batch.pop("begins"))).loss * count
    expected = language_modeling.score(model, tokenizer, texts, sequence_length=100, batch_tokens=1).nats
    expected += _ends(model, tokenizer, texts)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_only_what_spans_cover_is_learnt_and_the_rest_is_seen(tmp_path):
    model = checkpoint.load_model(tiny.write_checkpoint(tmp_path / "model", "gemma2"), torch.float32)
    tokenizer, texts = checkpoint.load_fast_tokenizer(tmp_path / "model"), tiny.sentences(6)
    spans = [None, [(0, 9)], [(12, 20), (30, 31)], [], [(5, len(texts[4]))], [(len(texts[5]) - 1, len(texts[5]))]]
    recipe = replace(RECIPE, sequence_length=100, max_tokens=10**6)
    batch = data.collate([torch.from_numpy(row) for row in data.draw_sequences(tokenizer, texts, AROUND, recipe, spans=spans)[0]])
    del batch["general"]
    layout, count = document_mask(model, batch.pop("begins")), (batch["labels"] != IGNORED).sum()
    with fused_loss(model):
        loss = model(**batch, **layout).loss * count
    nats, targets = 0.0, 0
    for text, those in zip(texts, spans, strict=True):
        encoding = tokenizer.encode(text, add_special_tokens=False)
        scores = model(torch.tensor([[1, *encoding.ids]])).logits[0].detach().log_softmax(-1)
        offsets = [*encoding.offsets, (len(text) - 1, len(text))]  # end of text is asked for where the last character is
        for place, (token, (first, end)) in enumerate(zip([*encoding.ids, 2], offsets, strict=True)):
            if those is None or any(first < b and end > a for a, b in those):
                nats, targets = nats - float(scores[place, token]), targets + 1
    assert float(loss.detach()) == pytest.approx(nats, rel=1e-5) and int(count) == targets


def _ends(model, tokenizer, texts):
    """Nats of the token that ends each text, which scoring leaves out."""
    nats = 0.0
    for ids in packing.encode(tokenizer, texts):
        logits = model(torch.tensor([[1, *ids]])).logits[0, -1].detach()
        nats -= float(logits.log_softmax(-1)[2])
    return nats


def test_a_small_budget_draws_from_everywhere_and_says_how_much(tmp_path):
    tiny.write_tokenizer(tmp_path)
    tokenizer, texts = checkpoint.load_fast_tokenizer(tmp_path), tiny.sentences(packing.BATCH_TEXTS * 2)
    recipe = replace(RECIPE, sequence_length=200, max_tokens=2400)
    whole, share = data.draw_sequences(tokenizer, texts, AROUND, replace(recipe, max_tokens=10**9))
    assert share == 1.0 and len(whole) * 200 > 4 * recipe.max_tokens
    some, share = data.draw_sequences(tokenizer, texts, AROUND, recipe)
    assert recipe.max_tokens <= len(some) * 200 <= 1.1 * recipe.max_tokens
    assert set(documents_in(some)) < set(documents_in(whole))
    assert abs(share - len(some) / len(whole)) < 0.02
    again, _ = data.draw_sequences(tokenizer, texts, AROUND, recipe)
    other, _ = data.draw_sequences(tokenizer, texts, AROUND, replace(recipe, seed=1))
    assert np.array_equal(some, again) and not np.array_equal(some, other)


@pytest.mark.parametrize("general", [1, 400])  # less than its share takes, and more
def test_general_text_has_its_share_of_the_rows(tmp_path, general):
    tiny.write_tokenizer(tmp_path)
    tokenizer = checkpoint.load_fast_tokenizer(tmp_path)
    others = [f"nothing of the kind, number {index}" for index in range(general)]
    recipe = replace(RECIPE, sequence_length=64, general="text", general_share=0.25)
    rows, share = data.draw_sequences(tokenizer, tiny.sentences(300), AROUND, recipe, (others, [None] * general))
    again, _ = data.draw_sequences(tokenizer, tiny.sentences(300), AROUND, recipe, (others, [None] * general))
    assert np.array_equal(rows, again)
    batch = data.collate([torch.from_numpy(row) for row in rows])
    assert batch["begins"][:, 0].all() and (batch["labels"] >= 0).equal(torch.from_numpy(rows[:, 1] >= 0))
    rows[:, 1, 0] = IGNORED  # from here on as without general text
    foreign = {(1, *ids, 2) for ids in packing.encode(tokenizer, others)}
    blended = [any(document in foreign for document in documents_in([row])) for row in rows]
    assert batch["general"].tolist() == blended
    assert sum(blended) == pytest.approx(0.25 * len(rows), abs=1) and 0 < share < 1
    assert len(rows) * 64 >= recipe.max_tokens * 0.95


def test_general_chats_are_learnt_on_their_replies_alone(tmp_path):
    tiny.write_tokenizer(tmp_path)
    tokenizer, texts = checkpoint.load_fast_tokenizer(tmp_path), tiny.sentences(20)
    recipe = replace(RECIPE, sequence_length=64, general="parent", general_share=0.5)
    rows, _ = data.draw_sequences(tokenizer, texts, AROUND, recipe, (texts, [[(0, 5)]] * len(texts)))
    batch = data.collate([torch.from_numpy(row) for row in rows])
    asked = (batch["labels"] >= 0).sum(1).float()
    assert asked[batch["general"]].max() < asked[~batch["general"]].min()


def test_no_text_is_refused(tmp_path):
    tiny.write_tokenizer(tmp_path)
    with pytest.raises(UserError, match="no text to train on"):
        data.draw_sequences(checkpoint.load_fast_tokenizer(tmp_path), [""], AROUND, RECIPE)
