"""Replies that loop, counted alike for every model."""

from __future__ import annotations

import pytest
import torch

from benchmarks.llamacpp import loops
from minigpts.model import checkpoint
from tests import tiny


@pytest.mark.parametrize(
    ("reply", "looping"),
    [
        ([1, 2, 3, 4] * 3, False),
        ([1, 2, 3, 4] * 4, True),
        ([9] * 6, False),  # three 4-grams, one upon the other
        ([9] * 7, True),
        ([*range(100), *range(100)], False),
        ([], False),
    ],
)
def test_a_reply_loops_when_a_4_gram_stands_in_it_more_than_three_times(reply, looping):
    assert loops.loops(reply) == looping


def test_half_the_prompts_are_questions_and_all_come_from_all_over_the_text():
    documents = [f"Topic {i}: a text about it" for i in range(40)] + [f"Question: Why {i}?\nAnswer: so" for i in range(40)]
    documents += [f"Plain words {i} without any topic" for i in range(40)]
    found = loops.prompts(documents, 8)
    assert found == [
        ("What is Topic 0?", True),
        ("What is Topic 20?", True),
        ("Why 0?", True),
        ("Why 20?", True),
        ("Topic 0: a text about", False),
        ("Topic 20: a text about", False),
        ("Plain words 0 without any", False),
        ("Plain words 20 without any", False),
    ]


@pytest.mark.parametrize(
    ("documents", "questions"), [(["One sentence. Another."] * 50, 0), (["Question: Why?\nAnswer: so"] * 50, 30)]
)
def test_text_of_one_kind_makes_prompts_of_one_kind(documents, questions):
    found = loops.prompts(documents)
    assert len(found) == 30 and sum(asks for _, asks in found) == questions


def test_replies_in_a_batch_are_those_of_each_prompt_alone_up_to_the_end_of_text(tmp_path):
    directory = tiny.write_checkpoint(tmp_path / "model")
    model, tokenizer = checkpoint.load_model(directory, torch.float32), checkpoint.load_tokenizer(directory)
    encoded = [
        loops.encode(tokenizer, text, False) for text in ("The heart", "A lung near the", "An abnormality of the kidney and the")
    ]
    encoded.append(loops.encode(tokenizer, "What is a heart?", True))
    assert tokenizer.decode(encoded[-1]).startswith("<|im_start|>user\nWhat is a heart?")
    together = loops.replies(model, encoded, 12)
    assert together == [loops.replies(model, [prompt], 12)[0] for prompt in encoded]
    model.generation_config.eos_token_id = [together[0][3]]
    cut = loops.replies(model, encoded, 12)[0]
    assert cut == together[0][: together[0].index(together[0][3])]
