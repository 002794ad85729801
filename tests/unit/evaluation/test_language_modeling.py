"""Scores agree with the plain definition, one document at a time, whatever the family."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, processors

from minigpts.errors import UserError
from minigpts.evaluation import language_modeling
from minigpts.model import checkpoint, forward
from tests import tiny
from tests.unit.post_processors import POST_PROCESSORS

TEXTS = [*tiny.sentences(14), "", "é – ✓", " ".join(tiny.sentences(9, seed=1))]


@pytest.fixture(scope="module", params=["llama", "opt", "gemma2"])  # gemma2 caps its logits, and its texts begin with <bos>
def parts(request, tmp_path_factory):
    directory = tiny.write_checkpoint(tmp_path_factory.mktemp("model") / "base", request.param)
    tokenizer = checkpoint.load_fast_tokenizer(directory)
    if request.param == "gemma2":
        bos = (tiny.SPECIAL[1], 1)
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    return checkpoint.load_model(directory, torch.float32), tokenizer


def plain_nats(model, tokenizer, text: str, window: int) -> float:
    """Each token's -ln p from full logits, in disjoint windows that see the one token before them."""
    ids = tokenizer.encode(text).ids
    if tokenizer.post_processor is None:  # which else has put a token first
        ids = [model.config.eos_token_id, *ids]
    total = 0.0
    for start in range(0, len(ids) - 1, window):
        piece = torch.tensor([ids[start : start + window + 1]])
        with torch.inference_mode():
            logits = model(piece[:, :-1]).logits.double().log_softmax(-1)
        total -= logits.gather(-1, piece[:, 1:, None]).sum().item()
    return total


def test_score_is_the_sum_over_documents_each_on_its_own(parts):
    model, tokenizer = parts
    result = language_modeling.score(model, tokenizer, TEXTS, sequence_length=50, batch_tokens=300)
    assert result.nats == pytest.approx(sum(plain_nats(model, tokenizer, text, 50) for text in TEXTS), rel=1e-6)
    assert result.bytes == sum(len(text.encode()) for text in TEXTS)
    assert result.tokens == sum(len(tokenizer.encode(text, add_special_tokens=False).ids) for text in TEXTS)
    assert result.bits_per_byte == pytest.approx(result.nats / math.log(2) / result.bytes)


def test_what_spans_cover_and_the_rest_make_up_the_whole(parts):
    model, tokenizer = parts
    limits = {"sequence_length": 50, "batch_tokens": 300}
    whole = language_modeling.score(model, tokenizer, TEXTS, **limits)
    word = tokenizer.encode(TEXTS[-1], add_special_tokens=False).offsets[70][0]  # where a token begins, windows after the first
    first = [[(0, word)] if text == TEXTS[-1] else [] for text in TEXTS]
    rest = [[(word, len(text))] if text == TEXTS[-1] else None for text in TEXTS]
    parts_of_it = [language_modeling.score(model, tokenizer, TEXTS, **limits, spans=spans) for spans in (first, rest)]
    assert [part.nats for part in parts_of_it] == [whole.nats] * 2 and parts_of_it[0].span_nats < whole.document_nats[-1]
    assert sum(part.span_nats for part in parts_of_it) == pytest.approx(whole.nats, rel=1e-6)
    assert parts_of_it[0].span_bytes == word and sum(part.span_bytes for part in parts_of_it) == whole.bytes


@pytest.mark.parametrize("batch_tokens", [1, 111, 100_000])
def test_batch_size_and_chunks_of_logits_do_not_show(parts, batch_tokens, monkeypatch):
    model, tokenizer = parts
    expected = language_modeling.score(model, tokenizer, TEXTS, sequence_length=64, batch_tokens=500).nats
    monkeypatch.setattr(forward, "SLICE_ELEMENTS", 7 * model.config.vocab_size)
    got = language_modeling.score(model, tokenizer, TEXTS, sequence_length=64, batch_tokens=batch_tokens).nats
    assert got == pytest.approx(expected, rel=1e-6)


def test_order_of_documents_does_not_show(parts):
    model, tokenizer = parts
    orders = (TEXTS, TEXTS[::-1])
    scores = [language_modeling.score(model, tokenizer, texts, sequence_length=64, batch_tokens=500).nats for texts in orders]
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)


def test_windows_stay_within_the_models_own_limit(parts):
    model, tokenizer = parts  # 256 positions
    text = [" ".join(tiny.sentences(30))]
    assert len(tokenizer.encode(text[0]).ids) > 300
    scores = [language_modeling.score(model, tokenizer, text, sequence_length=n, batch_tokens=500).nats for n in (256, 1024)]
    assert scores[0] == scores[1]


def test_batches_take_every_window_once_within_the_budget():
    lengths = [5, 90, 5, 31, 30, 29, 200]
    batches = list(language_modeling.batches(lengths, 100, 64))
    assert sorted(index for batch in batches for index in batch) == list(range(7))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 100 for batch in batches)
    assert [index for batch in batches for index in batch] == list(np.argsort([-n for n in lengths], kind="stable"))


@pytest.mark.parametrize("limit", [0, 7, 64, 1000])
def test_batches_are_padded_no_more_than_they_may_be(limit):
    lengths = [5, 90, 5, 31, 30, 29, 200, 12, 12, 3]
    batches = list(language_modeling.batches(lengths, 400, limit))
    padding = [sum(lengths[batch[0]] - lengths[index] for index in batch) for batch in batches]
    assert max(padding) <= limit and sorted(index for batch in batches for index in batch) == list(range(10))
    for batch, following in pairwise(batches):  # and none ends before it must
        longest = lengths[batch[0]]
        more = sum(longest - lengths[index] for index in [*batch, following[0]])
        assert more > limit or (len(batch) + 1) * longest > 400


def test_a_gpu_gets_fuller_batches_than_a_cpu():
    lengths = list(range(1, 1000))
    counts = {}
    for device in ("cpu", "cuda"):
        limit = language_modeling.max_padding(torch.device(device), 8192)
        counts[device] = len(list(language_modeling.batches(lengths, 8192, limit)))
    fewest = sum(lengths) / 8192
    assert counts["cuda"] < 1.2 * fewest < 1.5 * fewest < counts["cpu"]


@pytest.mark.parametrize("name", POST_PROCESSORS)
def test_what_a_tokenizer_puts_behind_a_text_is_not_scored(parts, name):
    model, _ = parts
    processor, before = POST_PROCESSORS[name]
    tokenizer = Tokenizer.from_str(parts[1].to_str())
    tokenizer.post_processor = processor or processors.ByteLevel()
    bos = before[0] if before else model.config.eos_token_id
    expected = 0.0
    for text in TEXTS[:4]:
        ids = torch.tensor([[bos, *tokenizer.encode(text, add_special_tokens=False).ids]])
        with torch.inference_mode():
            logits = model(ids[:, :-1]).logits.double().log_softmax(-1)
        expected -= logits.gather(-1, ids[:, 1:, None]).sum().item()
    result = language_modeling.score(model, tokenizer, TEXTS[:4], sequence_length=200, batch_tokens=500)
    assert result.nats == pytest.approx(expected, rel=1e-6)


def test_a_corpus_is_added_up_exactly(parts):
    model, tokenizer = parts
    one = language_modeling.score(model, tokenizer, TEXTS[:1], sequence_length=64, batch_tokens=1).nats
    many = language_modeling.score(model, tokenizer, TEXTS[:1] * 60, sequence_length=64, batch_tokens=1).nats
    assert many == pytest.approx(60 * one, rel=1e-14)  # sums in fp32 end some 1e-7 apart


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_no_text_is_refused(parts, texts):
    with pytest.raises(UserError, match="no text to score"):
        language_modeling.score(*parts, texts, sequence_length=64, batch_tokens=500)
