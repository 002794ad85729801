"""A GPU computes what the CPU does. Without one nothing here runs; `device()` takes a GPU wherever there is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from minigpts.evaluation import language_modeling, multiple_choice
from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from minigpts.model.loss import fused_loss
from minigpts.model.weights import StoredWeights
from minigpts.profiling.gradients import taylor_sums
from minigpts.profiling.recorder import profile
from minigpts.pruning import refit
from minigpts.pruning.layers import set_layers
from minigpts.pruning.slicing import AttentionShape, LayerCut
from tests import tiny
from tests.unit.evaluation.test_multiple_choice import QUESTIONS
from tests.unit.pruning.test_refit import filled

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
FAMILIES = ["llama", "opt", "gemma2"]
TOKENS = torch.randint(3, 300, (6, 40), generator=torch.Generator().manual_seed(1))
DEVICES = ("cpu", "cuda")


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tiny.write_checkpoint(tmp_path / "parent", request.param)


def test_statistics(folder: Path):
    found = []
    for device in DEVICES:
        model, spec = checkpoint.load_model(folder, torch.float32).to(device), spec_for(checkpoint.load_config(folder).model_type)
        found.append(profile(model, spec, TOKENS.to(device), all_linear=True) | taylor_sums(model, spec, TOKENS.to(device)))
    on_cpu, on_gpu = found
    assert on_cpu.keys() == on_gpu.keys()
    for name, values in on_cpu.items():
        assert on_gpu[name].device.type == "cpu"
        torch.testing.assert_close(on_gpu[name], values, rtol=1e-3, atol=1e-6 * float(values.double().abs().max()), msg=name)


def test_refitted_weights(folder: Path):
    config, stored = checkpoint.load_config(folder), StoredWeights(folder)
    spec, attention = spec_for(config.model_type), AttentionShape.of(config)
    width = stored.shapes[f"{spec.layer(0, spec.mlp_out)}.weight"][spec.input_axis]
    cuts = [LayerCut(index, torch.arange(0, width, 2), torch.arange(attention.num_groups)) for index in (0, 2)]
    child = checkpoint.load_config(folder)
    setattr(child, spec.width_field, len(cuts[0].neurons))
    set_layers(child, spec, (0, 2))
    logits = []
    for device in DEVICES:
        refitted = refit.least_squares(stored, config, child, spec, cuts, attention, TOKENS.to(device))
        tensors: dict[str, torch.Tensor] = {}
        for position, (index, new) in enumerate(refitted):
            layer = stored.under(f"{spec.layers}.{index}") | new
            tensors |= {spec.layer(position, name): tensor for name, tensor in layer.items()}
        parent = checkpoint.load_model(folder, torch.float32).state_dict()  # a tied head isn't stored
        outside = {name: tensor for name, tensor in parent.items() if not name.startswith(f"{spec.layers}.")}
        with torch.inference_mode():
            logits.append(filled(child, outside | tensors)(TOKENS).logits)
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=2e-3 * float(logits[0].std()))


def test_scores(folder: Path):
    tokenizer, texts = checkpoint.load_fast_tokenizer(folder), tiny.sentences(20)
    nats, answers = [], []
    for device in DEVICES:
        model = checkpoint.load_model(folder, torch.float32).to(device)
        nats.append(language_modeling.score(model, tokenizer, texts, sequence_length=64, batch_tokens=300).nats)
        answers.append(np.concatenate(multiple_choice.score(model, tokenizer, QUESTIONS, batch_tokens=300)))
    assert nats[1] == pytest.approx(nats[0], rel=1e-5)
    np.testing.assert_allclose(answers[1], answers[0], atol=1e-3, rtol=0)


def test_the_loss_without_logits_in_bf16_is_as_near_to_fp32_as_the_stock_loss(folder: Path):
    model, ids = checkpoint.load_model(folder, torch.float32).cuda(), TOKENS.cuda()
    parameters = list(model.parameters())

    def loss_and_gradients() -> list[torch.Tensor]:
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        return [loss.detach(), *torch.autograd.grad(loss, parameters)]

    exact = loss_and_gradients()
    with torch.autocast("cuda", torch.bfloat16):
        stock = loss_and_gradients()
        with fused_loss(model):
            fused = loss_and_gradients()
    assert abs(fused[0] / exact[0] - 1) < 1e-2

    def distance(found: list[torch.Tensor]) -> float:
        return float(sum((one - other).square().sum() for one, other in zip(found[1:], exact[1:], strict=True))) ** 0.5

    assert distance(fused) < 1.5 * distance(stock)
