"""Documents are drawn in seeded order, no more than the budget takes."""

from dataclasses import replace

import numpy as np

from minigpts import checkpoint
from minigpts.corpus import packing
from minigpts.training import data
from tests import tiny
from tests.unit.training.test_trainer import RECIPE


def test_a_small_budget_draws_from_everywhere_and_says_how_much(tmp_path):
    tiny.write_tokenizer(tmp_path)
    tokenizer, texts = checkpoint.load_fast_tokenizer(tmp_path), tiny.sentences(packing.BATCH_TEXTS * 2)
    whole, share = data.draw_sequences(tokenizer, texts, 2, replace(RECIPE, max_tokens=10**9))
    assert share == 1.0 and whole.size > 4 * RECIPE.max_tokens
    some, share = data.draw_sequences(tokenizer, texts, 2, RECIPE)
    assert some.size == RECIPE.max_tokens and np.array_equal(some, whole[: len(some)])
    assert abs(share - some.size / whole.size) < 0.02
    again, _ = data.draw_sequences(tokenizer, texts, 2, RECIPE)
    other, _ = data.draw_sequences(tokenizer, texts, 2, replace(RECIPE, seed=1))
    assert np.array_equal(some, again) and not np.array_equal(some, other)
