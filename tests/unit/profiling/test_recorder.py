"""The statistics are those of the activations, the same to the bit for any runtime, and recording leaves the model as it was."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
import yaml

from minigpts import artifacts
from minigpts.errors import UserError
from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from minigpts.profiling.recorder import NeuronSums, Sums, profile, recording
from stages import profile_activations
from tests import tiny


@pytest.fixture(params=["llama", "opt"])
def model(request: pytest.FixtureRequest, tmp_path: Path):
    return checkpoint.load_model(tiny.write_checkpoint(tmp_path / "model", request.param), torch.float32)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, 300, (7, 33), generator=torch.Generator().manual_seed(0))


def by_hand(model, tokens):
    """Activations (tokens, I) and head outputs (tokens, heads, head_dim) per layer, caught whole."""
    spec = spec_for(model.config.model_type)
    caught: dict[str, torch.Tensor] = {}
    handles = [
        model.get_submodule(spec.layer(index, name)).register_forward_pre_hook(
            lambda _, inputs, key=(index, name): caught.__setitem__(key, inputs[0].reshape(-1, inputs[0].shape[-1]).double())
        )
        for index in range(3)
        for name in (spec.mlp_out, spec.attention_out)
    ]
    with torch.inference_mode():
        model(tokens)
    for handle in handles:
        handle.remove()
    mlp = [caught[index, spec.mlp_out] for index in range(3)]
    return mlp, [caught[index, spec.attention_out].view(tokens.numel(), 4, 10) for index in range(3)]


def test_sums_are_those_of_the_activations(model, tokens):
    mlp, heads = by_hand(model, tokens)
    found = profile(model, spec_for(model.config.model_type), tokens)
    assert int(found["count"]) == tokens.numel()
    for index in range(3):
        expected = {
            "mlp.abs_sum": mlp[index].abs().sum(0),
            "mlp.sum": mlp[index].sum(0),
            "mlp.square_sum": mlp[index].square().sum(0),
            "heads.square_sum": heads[index].square().sum((0, 2)),
        }
        for key, value in expected.items():
            torch.testing.assert_close(found[f"layers.{index}.{key}"], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "opt", "gemma2"])
def test_runtime_batch_tokens_does_not_show_in_any_bit(tmp_path: Path, family: str):
    """The stage's file, Taylor and linear sums included, is the same bytes whatever runtime.batch_tokens is."""
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "head_dim": 16, "num_key_value_heads": 2}
    if family == "opt":
        sizes = {"hidden_size": 64, "word_embed_proj_dim": 64}
    folder = tiny.write_checkpoint(tmp_path / "model", family, **sizes)
    artifacts.write_table(tmp_path / "text.parquet", {"text": tiny.sentences(60)})
    written = []
    for batch_tokens in (1, 96, 320, 4096):
        values = {"profile": {"sequence_length": 32, "all_linear": True, "gradient_tokens": 640}}
        params, out = tmp_path / "params.yaml", tmp_path / "stats.safetensors"
        params.write_text(yaml.safe_dump({**values, "runtime": {"batch_tokens": batch_tokens, "num_threads": 1, "launcher": None}}))
        paths = {"model": folder, "text": tmp_path / "text.parquet", "out": out, "params": params}
        profile_activations.main([text for name, path in paths.items() for text in (f"--{name}", str(path))])
        written.append(out.read_bytes())
    assert len(set(written)) == 1


def test_gradients_of_what_cannot_be_held_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tiny.write_checkpoint(tmp_path / "model")
    settings = {"profile": {"sequence_length": 32, "all_linear": False, "gradient_tokens": 640}}
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump({**settings, "runtime": {"batch_tokens": 96, "num_threads": 1, "launcher": None}})
    )
    paths = {"model": folder, "text": tmp_path / "none.parquet", "out": tmp_path / "out", "params": tmp_path / "params.yaml"}
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1))
    with pytest.raises(UserError, match=r"^going backwards needs at least .*; set profile\.gradient_tokens to 0"):
        profile_activations.main([text for name, path in paths.items() for text in (f"--{name}", str(path))])


def test_sums_over_a_long_text_are_fp64s(model):
    """A million rows of ones and of tiny values: what fp32 would lose stays."""
    sums = Sums()
    neurons, rows = NeuronSums(0, sums), torch.tensor([[1.0, -1e-4, 0.1]]).expand(4096, 3)
    for _ in range(256):
        neurons.update(rows)
    found, count = sums.by_name(), 4096 * 256
    exact = rows[0].double() * count
    assert torch.equal(found["layers.0.mlp.sum"][:1], exact[:1])
    torch.testing.assert_close(found["layers.0.mlp.sum"], exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(found["layers.0.mlp.abs_sum"], exact.abs(), rtol=1e-6, atol=0)
    torch.testing.assert_close(found["layers.0.mlp.square_sum"], rows[0].double().square() * count, rtol=1e-6, atol=0)


def test_linear_sums_tell_the_bias_apart(tmp_path, tokens):
    model = checkpoint.load_model(tiny.write_checkpoint(tmp_path / "model", "llama", mlp_bias=True), torch.float32)
    found = profile(model, spec_for("llama"), tokens, all_linear=True)
    name = "model.layers.1.mlp.down_proj"
    module = model.get_submodule(name)
    caught = []
    module.register_forward_hook(lambda _, inputs, output: caught.append((inputs[0], output)))
    with torch.inference_mode():
        model(tokens)
    x, y = (value.reshape(-1, value.shape[-1]).double() for value in caught[0])
    torch.testing.assert_close(found[f"linear.{name}.input_abs_sum"], x.abs().sum(0), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found[f"linear.{name}.output_abs_sum"], y.abs().sum(0), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(
        found[f"linear.{name}.output_minus_bias_abs_sum"], (y - module.bias).abs().sum(0), rtol=1e-5, atol=1e-4
    )
    linears = [name for name, module in model.model.named_modules() if isinstance(module, torch.nn.Linear)]
    assert len({key.rpartition(".")[0] for key in found if key.startswith("linear.")}) == len(linears)


def test_block_influence_is_what_each_layer_turns_the_hidden_state_by(model, tokens):
    spec = spec_for(model.config.model_type)
    found = profile(model, spec, tokens)
    with torch.inference_mode():
        states = model(tokens, output_hidden_states=True).hidden_states  # the last one is behind the final norm
    for index in range(2):
        cosines = torch.nn.functional.cosine_similarity(states[index].double(), states[index + 1].double(), dim=-1)
        torch.testing.assert_close(found[f"layers.{index}.block.cosine_sum"], cosines.sum(), rtol=1e-5, atol=1e-5)


def test_a_layer_that_does_nothing_has_cosine_one(model, tokens):
    spec = spec_for(model.config.model_type)
    with torch.no_grad():
        for name in (spec.attention_out, spec.mlp_out):
            for parameter in model.get_submodule(spec.layer(1, name)).parameters():
                parameter.zero_()
    found = profile(model, spec, tokens)
    torch.testing.assert_close(found["layers.1.block.cosine_sum"], torch.tensor(float(tokens.numel()), dtype=torch.float64))
    assert found["layers.0.block.cosine_sum"] < 0.999 * tokens.numel()


def test_recording_changes_nothing_and_leaves_nothing_behind(model, tokens):
    with torch.inference_mode():
        before = model(tokens).logits
        with recording(model, spec_for(model.config.model_type)) as recorder:
            during = model(tokens).logits
        seen = int(recorder.statistics()["count"])
        after = model(tokens).logits
    assert torch.equal(before, during)
    assert torch.equal(before, after)
    assert int(recorder.statistics()["count"]) == seen == tokens.numel()
