from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PhiConfig, PreTrainedConfig, PreTrainedModel

from minigpts.errors import UserError
from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from minigpts.model.weights import StoredWeights, write_tensors
from minigpts.vocabulary.embeddings import shrink_config, slice_vocabulary
from tests import tiny

KEPT = [0, 1, 2, 5, 8, 13, 21, 34, 55, 89]


def phi_config(vocab_size: int) -> PreTrainedConfig:
    widths = dict(hidden_size=40, intermediate_size=77, num_hidden_layers=2, num_attention_heads=4, partial_rotary_factor=0.4)
    return PhiConfig(vocab_size=vocab_size, bos_token_id=1, eos_token_id=2, pad_token_id=2, **widths)


CASES = {
    "llama tied": (tiny.llama_config(97), spec_for("llama")),
    "llama untied": (tiny.llama_config(97, tie_word_embeddings=False), spec_for("llama")),
    "opt tied": (tiny.opt_config(97, pad_token_id=8), spec_for("opt")),
    "opt untied": (tiny.opt_config(97, tie_word_embeddings=False, pad_token_id=8), spec_for("opt")),
    "phi, lm_head with a bias": (phi_config(97), spec_for("phi")),
}


def random_model(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0 if parameter.dim() > 1 else 0.5, 0.15)
    return model.eval()


def stored(folder: Path, weights: dict[str, torch.Tensor]) -> StoredWeights:
    folder.mkdir()
    write_tensors(folder / "model.safetensors", weights)
    return StoredWeights(folder)


@pytest.mark.parametrize("case", CASES)
def test_logits_are_the_full_models_at_the_kept_tokens(case: str, tmp_path: Path) -> None:
    config, spec = CASES[case]
    full = random_model(config)
    smaller = type(config)(**config.to_dict())
    shrink_config(smaller, KEPT)
    smaller.dtype = torch.float32
    whole = stored(tmp_path / "full", checkpoint.weights_of(full, torch.float32))
    with checkpoint.saving(tmp_path / "small", smaller, slice_vocabulary(whole, spec, KEPT), companions=tmp_path):
        pass
    model = checkpoint.load_model(tmp_path / "small", torch.float32)

    new = torch.arange(len(KEPT)).repeat(3)[None]
    with torch.no_grad():
        restricted = full(torch.tensor(KEPT)[new]).logits[..., KEPT]
        # Only a matrix product's blocking may differ: its output is 10 columns wide instead of 97.
        torch.testing.assert_close(model(new).logits, restricted, rtol=0, atol=1e-5)
    assert restricted.std() > 0.1
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert (head.data_ptr() == embedding.data_ptr()) is config.tie_word_embeddings
    assert torch.equal(embedding, full.get_input_embeddings().weight[KEPT])


def test_the_padding_row_is_the_same_tokens() -> None:
    config, _ = CASES["opt tied"]
    smaller = type(config)(**config.to_dict())
    shrink_config(smaller, KEPT)
    model = AutoModelForCausalLM.from_config(smaller)
    assert smaller.pad_token_id == model.get_input_embeddings().padding_idx == KEPT.index(8)


def test_config_gets_the_new_size_and_ids_and_keeps_the_rest() -> None:
    config = LlamaConfig(vocab_size=97, bos_token_id=0, eos_token_id=[2, 13], pad_token_id=None)
    before = config.to_dict()
    shrink_config(config, KEPT)
    assert config.to_dict() == {**before, "vocab_size": 10, "bos_token_id": 0, "eos_token_id": [2, 5]}


def test_rows_beyond_the_tokenizer_go_and_a_token_without_a_row_is_refused(tmp_path: Path) -> None:
    spec = spec_for("llama")
    weights = stored(tmp_path / "m", {"model.embed_tokens.weight": torch.arange(10.0)[:, None], "model.norm.weight": torch.ones(3)})
    sliced = dict(slice_vocabulary(weights, spec, range(7)))
    assert sliced["model.embed_tokens.weight"].flatten().tolist() == list(range(7))
    assert sliced["model.norm.weight"] is weights.entries["model.norm.weight"]
    with pytest.raises(UserError, match=r"token id 10 has no row in model\.embed_tokens \(10 rows\)"):
        slice_vocabulary(weights, spec, [0, 10])


def test_slices_keep_the_dtype(tmp_path: Path) -> None:
    weights = stored(tmp_path / "m", {"model.embed_tokens.weight": torch.ones(10, 4, dtype=torch.bfloat16)})
    assert dict(slice_vocabulary(weights, spec_for("llama"), [1, 3]))["model.embed_tokens.weight"].dtype == torch.bfloat16
