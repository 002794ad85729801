from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from minigpts.errors import UserError
from minigpts.vocabulary import counts
from tests import tiny
from tests.unit.vocabulary.builders import byte_level, sentencepiece_style

TEXTS = [*tiny.sentences(60), "", "<|im_start|>user\nheart<|im_end|>", "ä 肺 🙂\n\n"]


@pytest.fixture(name="tokenizer")
def byte_level_tokenizer() -> Tokenizer:
    return Tokenizer.from_str(json.dumps(byte_level()))


def test_counts_are_those_of_encoding_one_text_after_another(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Counter(token_id for text in TEXTS for token_id in tokenizer.encode(text, add_special_tokens=False).ids)
    for batch_characters in (1, 500, 1 << 20):
        monkeypatch.setattr(counts, "BATCH_CHARACTERS", batch_characters)
        counted = counts.count_tokens(tokenizer, iter(TEXTS))
        assert {int(token_id): int(counted[token_id]) for token_id in np.flatnonzero(counted)} == expected
        assert counted.shape == (tokenizer.get_vocab_size(),)


def test_two_halves_add_up_to_the_whole(tokenizer: Tokenizer) -> None:
    halves = [counts.count_tokens(tokenizer, TEXTS[:30]), counts.count_tokens(tokenizer, TEXTS[30:])]
    assert np.array_equal(sum(halves), counts.count_tokens(tokenizer, TEXTS))


def test_tokens_that_a_post_processor_adds_do_not_count() -> None:
    tokenizer = Tokenizer.from_str(json.dumps(sentencepiece_style()))
    assert tokenizer.encode("lung").tokens[0] == "<s>"
    assert counts.count_tokens(tokenizer, ["lung"])[tokenizer.token_to_id("<s>")] == 0


def test_a_batch_of_long_documents_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "BATCH_CHARACTERS", 10)
    assert list(counts._batches(["a" * 25, "b", "c" * 9, "d"])) == [["a" * 25], ["b", "c" * 9], ["d"]]


def test_counts_come_back_and_only_for_their_own_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "counts.parquet"
    counted = counts.count_tokens(tokenizer, TEXTS)
    counts.write_counts(path, tokenizer, counted)
    assert np.array_equal(counts.read_counts(path, tokenizer), counted)
    first = path.read_bytes()
    counts.write_counts(path, tokenizer, counted)
    assert path.read_bytes() == first
    tokenizer.add_tokens(["<|new|>"])
    with pytest.raises(UserError, match=r"counts\.parquet: made with another tokenizer"):
        counts.read_counts(path, tokenizer)


def test_counts_of_nothing_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    counts.write_counts(tmp_path / "counts.parquet", tokenizer, counts.count_tokens(tokenizer, [""]))
    with pytest.raises(UserError, match="counts no token at all"):
        counts.read_counts(tmp_path / "counts.parquet", tokenizer)
