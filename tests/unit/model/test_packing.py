"""The packed stream is ``bos doc end bos doc end``, cut into rows, of no more text than they take; packed documents are whole."""

import itertools

import numpy as np
import pytest
from tokenizers import Tokenizer, processors

from minigpts.errors import UserError
from minigpts.model import packing
from minigpts.model.packing import IGNORED, Boundaries
from tests import tiny
from tests.unit.post_processors import POST_PROCESSORS

DOCUMENTS = [np.array([5, 6, 7]), np.array([8]), np.array([], dtype=np.int64), np.array([9, 10, 11, 12])]
SEPARATED = Boundaries(0, 0)
STREAM = [0, 5, 6, 7, 0, 8, 0, 0, 9, 10, 11, 12, 0]


@pytest.mark.parametrize("length", [1, 2, 4, 5, 13])
def test_rows_are_the_stream_without_its_incomplete_end(length):
    packed = packing.pack_stream(DOCUMENTS, SEPARATED, length)
    rows = len(STREAM) // length
    assert packed.dtype == np.int64
    assert packed.tolist() == np.reshape(STREAM[: rows * length], (rows, length)).tolist()


def test_where_two_tokens_stand_around_a_document_both_do():
    stream = [1, 5, 6, 7, 2, 1, 8, 2, 1, 2, 1, 9, 10, 11, 12, 2, 1]
    assert packing.pack_stream(DOCUMENTS, Boundaries(1, 2), 17).tolist() == [stream]
    assert packing.pack_stream(DOCUMENTS, Boundaries(1, 2), 4, max_tokens=9).ravel().tolist() == stream[:8]


def test_too_little_text_is_refused():
    with pytest.raises(UserError, match="13 tokens"):
        packing.pack_stream(DOCUMENTS, SEPARATED, 14)


@pytest.mark.parametrize(("max_tokens", "rows", "drawn"), [(3, 1, 1), (4, 1, 1), (8, 2, 3), (11, 2, 3), (12, 3, 4), (99, 3, 4)])
def test_a_budget_draws_only_the_documents_it_needs(max_tokens, rows, drawn):
    taken = []
    packed = packing.pack_stream((taken.append(1) or document for document in DOCUMENTS), SEPARATED, 4, max_tokens=max_tokens)
    assert packed.tolist() == packing.pack_stream(DOCUMENTS, SEPARATED, 4)[:rows].tolist()
    assert len(taken) == drawn


def test_texts_encode_without_special_tokens_and_in_order(tmp_path):
    tiny.write_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = [*tiny.sentences(packing.BATCH_TEXTS + 3), ""]
    ids = packing.encode(tokenizer, texts)
    assert [tokenizer.decode(row.tolist()) for row in ids] == texts
    assert [row.tolist() for row in ids] == [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 2),
        ({"eos_token_id": [0, 2]}, 0),
        ({"eos_token_id": None}, 1),
        ({"eos_token_id": 0}, 0),
    ],
)
def test_a_document_ends_with_end_of_text_else_beginning_and_begins_with_what_the_tokenizer_adds(tmp_path, changes, expected):
    tiny.write_tokenizer(tmp_path)
    tokenizer, config = Tokenizer.from_file(str(tmp_path / "tokenizer.json")), tiny.llama_config(480, **changes)
    assert packing.boundaries(tokenizer, config) == Boundaries(expected, expected)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{tiny.SPECIAL[1]} $A", special_tokens=[(tiny.SPECIAL[1], 1)])
    assert packing.boundaries(tokenizer, config) == Boundaries(1, expected)


@pytest.mark.parametrize("name", POST_PROCESSORS)
def test_only_what_the_tokenizer_puts_before_a_text_can_be_its_bos_token(tmp_path, name):
    tiny.write_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    processor, before = POST_PROCESSORS[name]
    if processor is not None:
        tokenizer.post_processor = processor
    assert packing.tokens_before(tokenizer) == before
    assert packing.boundaries(tokenizer, tiny.llama_config(480)) == Boundaries(before[0] if before else 2, 2)


def test_no_end_is_refused(tmp_path):
    tiny.write_tokenizer(tmp_path)
    with pytest.raises(UserError, match="eos_token_id"):
        config = tiny.llama_config(480, eos_token_id=None, bos_token_id=None)
        packing.boundaries(Tokenizer.from_file(str(tmp_path / "tokenizer.json")), config)


def documents_in(rows):
    """The documents in packed rows, as tuples of ids, whole; checks that labels are the ids after them."""
    found = []
    for ids, labels in rows:
        starts = [*np.flatnonzero(labels == IGNORED), len(ids)]
        for start, end in itertools.pairwise(starts):
            assert (labels[start + 1 : end] == ids[start + 1 : end]).all()
            if end - start > 1:
                found.append(tuple(ids[start:end].tolist()))
    return found


def test_packing_keeps_every_document_whole_and_wastes_next_to_nothing():
    generator = np.random.default_rng(0)
    parts = [np.array([1, *generator.integers(3, 99, size=size), 2]) for size in generator.integers(1, 30, size=500)]
    rows = packing.pack_documents(parts, 64)
    assert sorted(documents_in(rows)) == sorted(tuple(part.tolist()) for part in parts)
    assert (rows[:, 1] != IGNORED).sum() == sum(len(part) - 1 for part in parts)
    assert len(rows) <= -(-sum(map(len, parts)) // 64) + 1  # no packing needs fewer rows than that, less the one


@pytest.mark.parametrize("size", [1, 13, 14, 15, 29, 100])
def test_a_long_document_is_cut_so_that_every_token_is_a_target_once(size):
    ids = np.arange(3, 3 + size)
    cut = list(packing.cut_document(ids, Boundaries(bos=1, end=2), 16))
    assert all(2 <= len(piece) <= 16 for piece in cut) and cut[0][0] == 1
    assert np.concatenate([piece[1:] for piece in cut]).tolist() == [*ids, 2]
    assert all(before[-1] == after[0] for before, after in itertools.pairwise(cut))
