"""Taylor sums are those that autograd gives for the stock model and its stock loss, one sequence and one token at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from minigpts import artifacts
from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from minigpts.model.weights import read_tensors
from minigpts.profiling.gradients import taylor_sums
from stages import profile_activations
from tests import tiny

TOKENS = torch.randint(0, 300, (9, 17), generator=torch.Generator().manual_seed(0))


class Parent:
    """A tiny checkpoint, loaded by the project in fp32 and by stock transformers in fp64."""

    def __init__(self, folder: Path, variant: str) -> None:
        family, changes = tiny.VARIANTS[variant]
        self.folder, self.spec = tiny.write_checkpoint(folder, family, **changes), spec_for(family)
        self.model = checkpoint.load_model(self.folder, torch.float32)
        self.stock = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float64)

    def sums(self) -> dict[str, Tensor]:
        return taylor_sums(self.model, self.spec, TOKENS)

    def stock_nats(self, row: Tensor) -> Tensor:
        """The stock loss, summed over the row's labels."""
        return self.stock(input_ids=row[None], labels=row[None]).loss * (len(row) - 1)

    def hook(self, index: int, module: str, function: Callable[[nn.Module, tuple[Tensor]], object]):
        return self.stock.get_submodule(self.spec.layer(index, module)).register_forward_pre_hook(function)


@pytest.fixture(params=["llama", "opt"])
def parent(request: pytest.FixtureRequest, tmp_path: Path) -> Parent:
    return Parent(tmp_path / "model", request.param)


@pytest.mark.parametrize("variant", tiny.LAYOUTS)
def test_sums_are_those_of_the_stock_model_token_by_token(tmp_path: Path, variant: str):
    parent = Parent(tmp_path / "model", variant)
    caught: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor]) -> None:
            inputs[0].retain_grad()
            caught[name] = inputs[0]

        return hook

    num_heads = parent.model.config.num_attention_heads
    expected: dict[str, Tensor] = {}
    for index in range(3):
        parent.hook(index, parent.spec.mlp_out, keep(f"layers.{index}.mlp.taylor_sum"))
        if parent.spec.layer(index, parent.spec.attention_out) in dict(parent.stock.named_modules()):
            parent.hook(index, parent.spec.attention_out, keep(f"layers.{index}.heads.taylor_sum"))
    for row in TOKENS:
        parent.stock_nats(row).backward()
        for name, values in caught.items():
            for g, x in zip(values.grad.flatten(0, -2), values.flatten(0, -2), strict=True):  # a token's (features,)
                num_units = num_heads if "heads" in name else len(x)
                change = torch.stack(
                    [g_unit @ x_unit for g_unit, x_unit in zip(g.chunk(num_units), x.chunk(num_units), strict=True)]
                )
                expected[name] = expected.get(name, 0) + change.detach() ** 2
    found = parent.sums()
    assert found.keys() == {"gradient_count", *expected} and int(found["gradient_count"]) == TOKENS.numel()
    for name, value in expected.items():
        assert found[name].dtype == torch.float64 and value.min() >= 0 < value.max()
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5 * float(value.max()), msg=name)


def test_a_score_is_the_squared_slope_of_the_loss_when_its_unit_is_turned_down(parent: Parent):
    """Of two tokens only the first has a say in the loss, so that Σ_t (g·a)² is the square of one finite difference."""
    row, index, step = TOKENS[0, :2], 1, 1e-3
    found = taylor_sums(parent.model, parent.spec, row[None])
    units = {"mlp": (parent.spec.mlp_out, 77), "heads": (parent.spec.attention_out, parent.model.config.num_attention_heads)}

    def nats(module: str, num_units: int, unit: int, factor: float) -> float:
        factors = torch.ones(num_units, dtype=torch.float64).index_fill_(0, torch.tensor(unit), factor)
        scale = lambda _, inputs: (inputs[0] * factors.repeat_interleave(inputs[0].shape[-1] // num_units),)  # noqa: E731
        handle = parent.hook(index, module, scale)
        with torch.inference_mode():
            logits = parent.stock(row[None]).logits[0, :1]  # the stock loss would round them to fp32
        handle.remove()
        return float(nn.functional.cross_entropy(logits, row[1:]))

    for kind, (module, num_units) in units.items():
        score = found[f"layers.{index}.{kind}.taylor_sum"]
        for unit in score.topk(3).indices.tolist():
            slope = (nats(module, num_units, unit, 1 + step) - nats(module, num_units, unit, 1 - step)) / (2 * step)
            assert float(score[unit]) == pytest.approx(slope**2, rel=1e-2)


def test_the_model_is_as_it_was(parent: Parent):
    frozen = next(parent.model.parameters()).requires_grad_(False)  # stays so
    ids = TOKENS[:2]
    before = parent.model(input_ids=ids, labels=ids)
    parent.sums()
    after = parent.model(input_ids=ids, labels=ids)
    assert torch.equal(after.logits, before.logits) and torch.equal(after.loss, before.loss)
    for parameter in parent.model.parameters():
        assert parameter.grad is None and parameter.requires_grad is (parameter is not frozen)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in parent.model.modules())


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_stage_adds_the_sums_and_changes_no_other_statistic(tmp_path: Path, family: str):
    folder = tiny.write_checkpoint(tmp_path / "model", family)
    artifacts.write_table(tmp_path / "text.parquet", {"text": tiny.sentences(24)})
    found = {}
    for gradient_tokens in (0, 80):
        values = {"profile": {"sequence_length": 40, "all_linear": True, "gradient_tokens": gradient_tokens}}
        params, out = tmp_path / "params.yaml", tmp_path / f"{gradient_tokens}.safetensors"
        params.write_text(yaml.safe_dump({**values, "runtime": {"batch_tokens": 160, "num_threads": None, "launcher": None}}))
        paths = {"model": folder, "text": tmp_path / "text.parquet", "out": out, "params": params}
        profile_activations.main([text for name, path in paths.items() for text in (f"--{name}", str(path))])
        found[gradient_tokens] = read_tensors(out)
    plain, more = found[0], found[80]
    units = [name.removesuffix(".square_sum") for name in plain if name.endswith((".mlp.square_sum", ".heads.square_sum"))]
    added = {"gradient_count", *(f"{name}.taylor_sum" for name in units)}
    assert sum(name.endswith(".mlp") for name in units) == 3
    assert more.keys() == plain.keys() | added and not added & plain.keys()
    assert all(torch.equal(more[name], value) for name, value in plain.items())
    assert int(more["gradient_count"]) == 80 < int(more["count"])
