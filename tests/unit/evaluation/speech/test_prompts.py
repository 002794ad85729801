"""Prompts made from documents by rule, and the ids a model goes on from."""

from __future__ import annotations

import pytest

from minigpts.evaluation.speech.general import GENERAL
from minigpts.evaluation.speech.prompts import PROMPTS, Prompt, encode, of_documents
from minigpts.model import checkpoint
from tests import tiny
from tests.unit.post_processors import POST_PROCESSORS


def test_a_third_each_are_questions_requests_and_beginnings_from_all_over_the_text():
    documents = [f"Topic {i}: a text about it" for i in range(40)] + [f"Question: Why {i}?\nAnswer: so" for i in range(20)]
    documents += [f"Plain words {i} without any topic" for i in range(40)] + ["", f"Question: {'why ' * 50}?"]
    assert of_documents(documents, count=6) == [
        Prompt("What is Topic 0?", True),
        Prompt("Why 0?", True),
        Prompt("List three facts about Topic 1.", True),
        Prompt("List three facts about Topic 21.", True),
        Prompt("Topic 0: a text about", False),
        Prompt("Plain words 0 without any", False),
    ]


@pytest.mark.parametrize(
    ("documents", "asking"),
    [([f"Sentence {i}. Another." for i in range(90)], 0), ([f"Question: Why {i}?\nAnswer: so" for i in range(90)], PROMPTS)],
)
def test_text_of_one_kind_makes_prompts_of_one_kind(documents, asking):
    found = of_documents(documents)
    assert len(set(found)) == PROMPTS and sum(prompt.asks for prompt in found) == asking
    assert len(of_documents(documents[:7])) == 7


def test_a_chat_is_gone_on_from_where_the_assistant_speaks_first():
    chat = "<user> Why?\n<assistant> So.\n<user> And?\n<assistant> Too."
    assert of_documents([chat, "Plain words"], [[[24, 28], [53, 57]], None]) == [
        Prompt("<user> Why?\n<assistant> ", False),
        Prompt("Plain words", False),
    ]


def test_the_general_prompts_are_thirty_different_ones():
    assert len(set(GENERAL)) == 30


@pytest.mark.parametrize("name", POST_PROCESSORS)
def test_nothing_that_the_tokenizer_puts_behind_a_text_ends_the_prompt(tmp_path, name):
    directory = tiny.write_checkpoint(tmp_path / "model")
    processor, before = POST_PROCESSORS[name]
    tokenizer = checkpoint.load_fast_tokenizer(directory)
    plain = [*before, *tokenizer.encode("The heart", add_special_tokens=False).ids]
    question = [*before, *tokenizer.encode("Question: The heart\nAnswer:", add_special_tokens=False).ids]
    if processor is not None:
        tokenizer.post_processor = processor
        tokenizer.save(str(directory / "tokenizer.json"))
    loaded = checkpoint.load_tokenizer(directory)
    assert encode(loaded, Prompt("The heart", False)) == plain
    assert loaded.decode(encode(loaded, Prompt("The heart", True))).startswith("<|im_start|>user\nThe heart")
    loaded.chat_template = None
    assert encode(loaded, Prompt("The heart", True)) == question
