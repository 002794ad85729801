"""What is counted of replies, and which of them keep an instruction."""

from __future__ import annotations

import pytest
import torch

from minigpts.evaluation.speech.instructions import INSTRUCTIONS
from minigpts.evaluation.speech.measure import keeps, measure
from minigpts.evaluation.speech.prompts import PROMPTS, Prompt
from minigpts.evaluation.speech.replies import Reply, figures, loops
from minigpts.model import checkpoint
from tests import tiny

PROMPT = Prompt("Why?", True)


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
    assert loops(reply) == looping


def test_figures_are_shares_of_the_replies():
    said = [
        Reply(PROMPT, (), "", True),
        Reply(PROMPT, (7,), " \n", True),
        Reply(PROMPT, (1, 2, 3), "So it is", True),
        Reply(PROMPT, (5,) * 8, "so it so it so it so it", False),
    ]
    assert figures(said) == {"empty_rate": 0.5, "end_rate": 0.75, "loop_rate": 0.25, "distinct_2": 3 / 9, "length": 3.0}
    assert figures(said[:2])["distinct_2"] is None


KEPT = {  # of each kind: replies that keep the first of its instructions, and replies that don't
    "one sentence": (["They rest.", " It takes 3.5 hours (or so)!\n"], ["They rest. They dream.", "They rest", "Yes. 1"]),
    "three items": (["- a\n- b\n- c", "Here:\n1. a\n2. b\n3) c"], ["- a\n- b", "- a\n- b\n- c\n- d", "a, b, c"]),
    "numbered list": (["1. boil\n2. pour", "So:\n 1) boil\n 2) pour\nDone."], ["1. boil", "1. boil\n3. pour", "- boil\n- pour"]),
    "capital letters": (["GREEN, OF COURSE."], ["Green", "12"]),
    "small letters": (["dogs are kind."], ["Dogs", "12"]),
    "begin with": (["Clearly, it is.", '"clearly" so'], ["It is clearly so.", "Clear", "..."]),
    "end with": (["They run. That is all.", "that is all!"], ["That is all, I say.", "all"]),
    "no commas": (["Trees and moss."], ["Trees, moss.", "..."]),
    "under 20 words": (["It shows the time."], ["time " * 20, "?"]),
    "mention": (["He took the ladder."], ["Many ladders.", "A garden."]),
    "yes or no": (["Yes.", "no"], ["Yes, it is.", "maybe"]),
    "JSON": (
        ['{"colour": "white"}', '```json\n{"colour": "white"}\n```'],
        ['{"color": "white"}', "white", 'It is {"colour": "white"}', '["colour"]'],
    ),
}


def test_every_kind_is_asked_three_times_and_kept_by_what_keeps_it():
    kinds = [instruction.kind for instruction in INSTRUCTIONS]
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(KEPT, 3)
    assert len({instruction.request for instruction in INSTRUCTIONS}) == len(INSTRUCTIONS)
    for kind, (good, bad) in KEPT.items():
        check = INSTRUCTIONS[kinds.index(kind)].kept_by
        assert [text for text in good if not check(text)] == [], kind
        assert [text for text in bad if check(text)] == [], kind
    assert [instruction.request for instruction in INSTRUCTIONS if instruction.kept_by("")] == []


def test_a_loop_keeps_no_instruction():
    assert keeps(Reply(PROMPT, (5, 6, 7), "a b c", True), True)
    assert not keeps(Reply(PROMPT, (5, 6, 7), "a b c", True), False)
    assert not keeps(Reply(PROMPT, (5,) * 7, "a" * 7, True), True)
    assert not keeps(Reply(PROMPT, (), "", True), True)


@pytest.mark.parametrize("says", ["one word", "nothing"])
def test_a_model_that_says_one_word_loops_and_one_that_ends_at_once_is_empty(says, tmp_path):
    """Whatever its prompt, on the whole path."""
    directory = tiny.write_checkpoint(tmp_path / "model", tie_word_embeddings=False)
    model, tokenizer = checkpoint.load_model(directory, torch.float32), checkpoint.load_tokenizer(directory)
    said = 2 if says == "nothing" else tokenizer.encode(" heart", add_special_tokens=False)[0]
    with torch.no_grad():  # all tokens are alike, and after any of them comes the one
        model.model.embed_tokens.weight.fill_(1.0)
        hidden = model.model(torch.tensor([[5]])).last_hidden_state[0, 0]
        model.lm_head.weight.zero_()[said] = hidden
    metrics, written = measure(model, tokenizer, tiny.sentences(200), [None] * 200, 9, batch_tokens=4096)
    empty = float(says == "nothing")
    figures = {"empty_rate": empty, "end_rate": empty, "loop_rate": 1 - empty, "length": 9 * (1 - empty)}
    assert metrics["instructions"] == 0.0
    for asked, count in (("domain", PROMPTS), ("general", 30)):  # of nine words, all eight pairs are the same
        assert metrics[asked] == {**figures, "distinct_2": None if empty else 1 / (8 * count)}
    assert {name: len(found) for name, found in written.items()} == {
        "domain": PROMPTS,
        "general": 30,
        "sampled": 45,
        "instructions": len(INSTRUCTIONS),
    }
    tokenizer.chat_template = None
    metrics, written = measure(model, tokenizer, tiny.sentences(40), [None] * 40, 2, batch_tokens=4096)
    assert metrics["instructions"] is None and written["instructions"] == []
