from pathlib import Path

import pytest
import torch

from minigpts.errors import UserError
from minigpts.model import checkpoint
from minigpts.reporting.samples import continuations
from tests import tiny


def test_it_is_the_argmax_of_each_step(tmp_path: Path) -> None:
    directory = tiny.write_checkpoint(tmp_path / "model", dtype=torch.bfloat16)
    model, tokenizer = checkpoint.load_model(directory, torch.float32), checkpoint.load_tokenizer(directory)
    expected = []
    for prompt in ("The heart", "The kidney and the"):
        ids = tokenizer(prompt).input_ids
        start = len(ids)
        while len(ids) < start + 6 and ids[-1] != model.generation_config.eos_token_id:
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        expected.append(tokenizer.decode(ids[start:], skip_special_tokens=True))
    assert continuations(directory, ["The heart", "The kidney and the"], 6) == expected


def test_a_prompt_that_does_not_fit_is_named(tmp_path: Path) -> None:
    directory = tiny.write_checkpoint(tmp_path / "model", max_position_embeddings=16)
    with pytest.raises(UserError, match=r"report\.prompts: 'The heart' .* the 16 positions"):
        continuations(directory, ["The heart"], 16)


def test_no_prompts_load_nothing(tmp_path: Path) -> None:
    assert continuations(tmp_path / "absent", [], 5) == []
