"""The packed stream is ``lead doc end lead doc end``, cut into rows, and no more text is encoded than the rows take."""

import numpy as np
import pytest
from tokenizers import Tokenizer, processors

from minigpts.errors import UserError
from minigpts.model import packing
from minigpts.model.packing import Boundaries
from tests import tiny

DOCUMENTS = [np.array([5, 6, 7]), np.array([8]), np.array([], dtype=np.int64), np.array([9, 10, 11, 12])]
SEPARATED = Boundaries(0, 0)
STREAM = [0, 5, 6, 7, 0, 8, 0, 0, 9, 10, 11, 12, 0]


@pytest.mark.parametrize("length", [1, 2, 4, 5, 13])
def test_rows_are_the_stream_without_its_incomplete_end(length):
    packed = packing.pack(DOCUMENTS, SEPARATED, length)
    rows = len(STREAM) // length
    assert packed.dtype == np.int64
    assert packed.tolist() == np.reshape(STREAM[: rows * length], (rows, length)).tolist()


def test_where_two_tokens_stand_around_a_document_both_do():
    stream = [1, 5, 6, 7, 2, 1, 8, 2, 1, 2, 1, 9, 10, 11, 12, 2, 1]
    assert packing.pack(DOCUMENTS, Boundaries(1, 2), 17).tolist() == [stream]
    assert packing.pack(DOCUMENTS, Boundaries(1, 2), 4, max_tokens=9).ravel().tolist() == stream[:8]


def test_too_little_text_is_refused():
    with pytest.raises(UserError, match="13 tokens"):
        packing.pack(DOCUMENTS, SEPARATED, 14)


@pytest.mark.parametrize(("max_tokens", "rows", "drawn"), [(3, 1, 1), (4, 1, 1), (8, 2, 3), (11, 2, 3), (12, 3, 4), (99, 3, 4)])
def test_a_budget_draws_only_the_documents_it_needs(max_tokens, rows, drawn):
    taken = []
    packed = packing.pack((taken.append(1) or document for document in DOCUMENTS), SEPARATED, 4, max_tokens=max_tokens)
    assert packed.tolist() == packing.pack(DOCUMENTS, SEPARATED, 4)[:rows].tolist()
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
def test_a_document_ends_with_end_of_text_else_beginning_and_what_the_tokenizer_adds_leads_it(tmp_path, changes, expected):
    tiny.write_tokenizer(tmp_path)
    tokenizer, config = Tokenizer.from_file(str(tmp_path / "tokenizer.json")), tiny.llama_config(480, **changes)
    assert packing.boundaries(tokenizer, config) == Boundaries(expected, expected)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{tiny.SPECIAL[1]} $A", special_tokens=[(tiny.SPECIAL[1], 1)])
    assert packing.boundaries(tokenizer, config) == Boundaries(1, expected)


def test_no_end_is_refused(tmp_path):
    tiny.write_tokenizer(tmp_path)
    with pytest.raises(UserError, match="eos_token_id"):
        config = tiny.llama_config(480, eos_token_id=None, bos_token_id=None)
        packing.boundaries(Tokenizer.from_file(str(tmp_path / "tokenizer.json")), config)
