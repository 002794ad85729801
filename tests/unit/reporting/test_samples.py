import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from minigpts.errors import UserError
from minigpts.model import checkpoint
from minigpts.reporting.samples import continuations
from tests import tiny
from tests.unit.post_processors import POST_PROCESSORS
from tests.unit.vocabulary.builders import KINDS


def test_it_is_the_argmax_of_each_step(tmp_path: Path) -> None:
    directory = tiny.write_checkpoint(tmp_path / "model", dtype=torch.bfloat16)
    model, tokenizer = checkpoint.load_model(directory, torch.float32), checkpoint.load_tokenizer(directory)
    expected = []
    for prompt in ("The heart", "The kidney and the"):
        ids = tokenizer(prompt).input_ids
        expected.append(tokenizer.decode(_greedy(model, ids, 6)[len(ids) :], skip_special_tokens=True))
    assert continuations(directory, ["The heart", "The kidney and the"], 6) == expected


def _greedy(model, ids: list[int], count: int) -> list[int]:
    """``ids`` and up to ``count`` more, each the likeliest, up to the end of text."""
    start = len(ids)
    while len(ids) < start + count and ids[-1] != model.generation_config.eos_token_id:
        with torch.no_grad():
            ids = [*ids, int(model(torch.tensor([ids])).logits[0, -1].argmax())]
    return ids


@pytest.mark.parametrize("name", POST_PROCESSORS)
def test_nothing_that_the_tokenizer_puts_behind_a_text_ends_the_prompt(tmp_path: Path, name: str) -> None:
    directory = tiny.write_checkpoint(tmp_path / "model")
    processor, before = POST_PROCESSORS[name]
    tokenizer = checkpoint.load_fast_tokenizer(directory)
    prompt = [*before, *tokenizer.encode("The heart", add_special_tokens=False).ids]
    if processor is not None:
        tokenizer.post_processor = processor
        tokenizer.save(str(directory / "tokenizer.json"))
    ids = _greedy(checkpoint.load_model(directory, torch.float32), prompt, 6)
    assert continuations(directory, ["The heart"], 6) == [tokenizer.decode(ids[len(prompt) :])]


@pytest.mark.parametrize("kind", ["sentencepiece", "metaspace", "gemma"])
def test_a_continuation_keeps_the_space_it_begins_with(tmp_path: Path, kind: str) -> None:
    definition = KINDS[kind]()
    tokenizer = Tokenizer.from_str(json.dumps(definition))
    words = [token for token, token_id in definition["model"]["vocab"].items() if token.startswith("▁") and token.strip("▁")]
    directory = tiny.write_checkpoint(tmp_path / "model", vocab_size=tokenizer.get_vocab_size(), tie_word_embeddings=False)
    tokenizer.save(str(directory / "tokenizer.json"))
    stored = checkpoint.load_model(directory, torch.float32)
    with torch.no_grad():  # all tokens are alike, and after any of them comes the one word
        stored.model.embed_tokens.weight.fill_(1.0)
        hidden = stored.model(torch.tensor([[5]])).last_hidden_state[0, 0]
        stored.lm_head.weight.zero_()[definition["model"]["vocab"][words[0]]] = hidden
    config = checkpoint.load_config(directory)
    companions = directory.rename(tmp_path / "companions")
    with checkpoint.saving(directory, config, checkpoint.weights_of(stored, torch.float32).items(), companions=companions):
        pass
    assert continuations(directory, ["the heart"], 2) == [words[0].replace("▁", " ") * 2]


def test_a_prompt_that_does_not_fit_is_named(tmp_path: Path) -> None:
    directory = tiny.write_checkpoint(tmp_path / "model", max_position_embeddings=16)
    with pytest.raises(UserError, match=r"report\.prompts: 'The heart' .* the 16 positions"):
        continuations(directory, ["The heart"], 16)


def test_no_prompts_load_nothing(tmp_path: Path) -> None:
    assert continuations(tmp_path / "absent", [], 5) == []
