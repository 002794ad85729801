"""A layer at a time gives what the whole model gives, to the last bit, however much text goes through the layers together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from minigpts.evaluation import language_modeling, multiple_choice
from minigpts.model import checkpoint, streaming
from minigpts.model.families import spec_for
from minigpts.model.forward import Model
from minigpts.model.streaming import StreamedModel
from minigpts.model.weights import StoredWeights
from minigpts.profiling.recorder import profile
from tests import tiny

TOKENS = torch.randint(0, 300, (40, 32), generator=torch.Generator().manual_seed(0))
QUESTIONS = [
    {"question": "Where is the heart?", "choices": ["Near the lung", "Near the kidney", "In the brain"], "answer": 0},
    {"question": "Which is a bone?", "choices": ["tooth", "skin"], "answer": 0},
]
FAMILIES = {
    **{
        name: tiny.VARIANTS[name]
        for name in (
            "llama",
            "gemma2",
            "gemma3_text",
            "gpt2",
            "phi",
            "opt 350m",
            "cohere2",
            "granite_swa",
            "gptj",
            "lfm2",
            "qwen3_5_text",
        )
    },
    **{name: tiny.MIXTURE_VARIANTS[name] for name in ("qwen3_moe tied, a layer dense", "gpt_oss")},
    "llama, an uneven child": ("llama", {"intermediate_sizes": [77, 33, 50]}),
}


def everything(model: Model, folder: Path) -> tuple[dict[str, torch.Tensor], list[float], np.ndarray]:
    """The statistics, the nats of each document, and those of each choice."""
    tokenizer = checkpoint.load_fast_tokenizer(folder)
    statistics = profile(model, spec_for(model.config.model_type), TOKENS, all_linear=True)
    texts = [*tiny.sentences(12), " ".join(tiny.sentences(9))]
    scored = language_modeling.score(model, tokenizer, texts, sequence_length=50, batch_tokens=160)
    answers = multiple_choice.score(model, tokenizer, QUESTIONS, batch_tokens=300)
    return statistics, [*scored.document_nats], np.concatenate(answers)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_bit_is_the_whole_models(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    family, changes = FAMILIES[name]
    folder = tiny.write_checkpoint(tmp_path / "model", family, dtype=torch.bfloat16, **changes)
    whole = everything(checkpoint.load_model(folder, torch.float32), folder)
    enter, passes = StreamedModel._entering, list[int]()
    monkeypatch.setattr(StreamedModel, "_entering", lambda model, batches: passes.append(0) or enter(model, batches))
    for stream_bytes, several in ((1 << 30, False), (100_000, True)):
        monkeypatch.setattr(streaming, "STREAM_BYTES", stream_bytes)
        passes.clear()
        streamed = everything(StreamedModel(folder, torch.device("cpu"), StoredWeights(folder)), folder)
        assert (len(passes) > 3) is several  # one for each of profile, text and questions
        assert streamed[0].keys() == whole[0].keys()
        assert all(torch.equal(streamed[0][key], whole[0][key]) for key in whole[0])
        assert streamed[1] == whole[1]
        assert np.array_equal(streamed[2], whole[2])
