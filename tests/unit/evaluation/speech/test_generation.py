"""Replies decoded in batches are those of each prompt alone, whatever the checkpoint's own generation settings say."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer

from minigpts.errors import UserError
from minigpts.evaluation.speech.generation import generate, uniform
from minigpts.evaluation.speech.prompts import Prompt, encode
from minigpts.evaluation.speech.replies import replies
from minigpts.model import checkpoint
from tests import tiny
from tests.unit.vocabulary.builders import KINDS

PROMPTS = [Prompt(text, False) for text in ("The heart", "A lung near the", "An abnormality of the kidney and the")]
PROMPTS.append(Prompt("What is a heart?", True))


def one_by_one(model, ids: list[int], count: int, draws: torch.Tensor | None = None) -> list[int]:
    """Up to ``count`` tokens behind ``ids``, each the likeliest or drawn, from the whole text and without a cache."""
    start = len(ids)
    while len(ids) < start + count:
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        chosen = int(logits.argmax()) if draws is None else drawn(logits, draws[len(ids) - start])
        if chosen == model.generation_config.eos_token_id:
            break
        ids = [*ids, chosen]
    return ids[start:]


def drawn(logits: torch.Tensor, draw: torch.Tensor) -> int:
    """The token that a number from 0 to 1 draws out of the nucleus, as its definition says it."""
    likely = sorted(((p, token) for token, p in enumerate((logits / 0.7).softmax(0).tolist())), reverse=True)[:256]
    scale = sum(p for p, _ in likely)
    nucleus, total = [], 0.0
    for p, token in likely:
        if total >= 0.9:
            break
        nucleus.append((p / scale, token))
        total += p / scale
    left = float(draw) * total
    for p, token in nucleus:
        left -= p
        if left < 0:
            return token
    return nucleus[-1][1]


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "opt", *tiny.HYBRIDS])  # rotary, windowed, learned, states
def test_in_a_batch_and_with_a_cache_they_are_those_of_each_alone(family, tmp_path):
    directory = tiny.write_checkpoint(tmp_path / "model", family)
    model, tokenizer = checkpoint.load_model(directory, torch.float32), checkpoint.load_tokenizer(directory)
    encoded = [encode(tokenizer, prompt) for prompt in PROMPTS]
    draws = uniform(len(encoded), 14)
    two = {"batch_tokens": 2 * len(encoded[-1])}  # rows at a time: the longest and another
    assert generate(model, encoded, 14, **two) == [one_by_one(model, ids, 14) for ids in encoded]
    sampled = [one_by_one(model, ids, 14, row) for ids, row in zip(encoded, draws, strict=True)]
    assert generate(model, encoded, 14, **two, draws=draws) == sampled


def test_only_the_end_of_text_is_the_checkpoints_own_setting(tmp_path):
    directory = tiny.write_checkpoint(tmp_path / "model")
    model, tokenizer = checkpoint.load_model(directory, torch.float32), checkpoint.load_tokenizer(directory)
    encoded = [encode(tokenizer, prompt) for prompt in PROMPTS]
    plain = generate(model, encoded, 12, batch_tokens=400)
    settings = {"repetition_penalty": 3.0, "do_sample": True, "suppress_tokens": plain[0][:1], "max_length": 3, "min_new_tokens": 9}
    (directory / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [plain[0][3]]}))
    changed = checkpoint.load_model(directory, torch.float32)
    own = changed.generation_config
    assert generate(changed, encoded, 12, batch_tokens=400)[0] == plain[0][: plain[0].index(plain[0][3])]
    assert changed.generation_config is own and own.repetition_penalty == 3.0


def test_a_reply_that_does_not_fit_is_named(tmp_path):
    model = checkpoint.load_model(tiny.write_checkpoint(tmp_path / "model", max_position_embeddings=16), torch.float32)
    with pytest.raises(UserError, match=r"speech\.tokens 14 behind a prompt of 3 tokens .* the model's 16 positions"):
        generate(model, [[5, 6, 7]], 14, batch_tokens=400)
    assert generate(model, [], 14, batch_tokens=400) == []


@pytest.mark.parametrize("kind", ["sentencepiece", "metaspace", "gemma"])
def test_a_reply_keeps_the_space_it_begins_with(tmp_path, kind):
    definition = KINDS[kind]()
    tokenizer = Tokenizer.from_str(json.dumps(definition))
    words = [token for token, token_id in definition["model"]["vocab"].items() if token.startswith("▁") and token.strip("▁")]
    directory = tiny.write_checkpoint(tmp_path / "model", vocab_size=tokenizer.get_vocab_size(), tie_word_embeddings=False)
    tokenizer.save(str(directory / "tokenizer.json"))
    model = checkpoint.load_model(directory, torch.float32)
    with torch.no_grad():  # all tokens are alike, and after any of them comes the one word
        model.model.embed_tokens.weight.fill_(1.0)
        hidden = model.model(torch.tensor([[5]])).last_hidden_state[0, 0]
        model.lm_head.weight.zero_()[definition["model"]["vocab"][words[0]]] = hidden
    (reply,) = replies(model, checkpoint.load_tokenizer(directory), [Prompt("the heart", False)], 9, batch_tokens=400)
    assert reply.text == words[0].replace("▁", " ") * 9
    assert (reply.ended, reply.loops, reply.empty) == (False, True, False)
