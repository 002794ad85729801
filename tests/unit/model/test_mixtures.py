"""What the project promises of every mixture of experts: each checkpoint of tiny.MIXTURE_VARIANTS.

The stages run as `dvc repro` runs them; what they should have done is worked out from stock modules and hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from minigpts import artifacts
from minigpts.errors import UserError
from minigpts.evaluation import language_modeling
from minigpts.importing import local_folder
from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from minigpts.model.weights import read_tensors
from minigpts.profiling.recorder import ExpertSums
from stages import evaluate, finetune, profile_activations, prune_embeddings, prune_neurons
from tests import tiny
from tests.unit.evaluation.test_language_modeling import plain_nats
from tests.unit.model.test_families import LENGTH, PARAMS, TEXTS, arguments, write_data
from tests.unit.model.test_loss import assert_loss_is_stock

TOKENS = torch.randint(3, 300, (3, LENGTH), generator=torch.Generator().manual_seed(0))


class Mixture:
    """One checkpoint of tiny.MIXTURE_VARIANTS, profiled by the stage, and what the stages make of it."""

    def __init__(self, variant: str, folder: Path, data: Path) -> None:
        self.family, changes = (tiny.MIXTURE_VARIANTS | tiny.VARIANTS)[variant]
        self.folder, self.data, self.spec = folder, data, spec_for(self.family)
        self.base = tiny.write_checkpoint(folder / "base", self.family, **changes)
        self.model = checkpoint.load_model(self.base, torch.float32)
        self.stats = folder / "stats.safetensors"
        profile_activations.main(arguments(model=self.base, text=data / "text.parquet", out=self.stats, params=self.params("base")))

    def params(self, name: str, **prune: Any) -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**PARAMS, "prune_neurons": {**PARAMS["prune_neurons"], **prune}}))
        return path

    def prune(self, name: str, **settings: Any) -> Path:
        """The prune_neurons stage's checkpoint folder; its metrics lie beside it as json."""
        outputs = {"out": self.folder / name, "metrics": self.folder / f"{name}.json", "widths": self.folder / f"{name}.csv"}
        params = self.params(name, **settings)
        prune_neurons.main(arguments(model=self.base, stats=self.stats, text=self.data / "text.parquet", params=params, **outputs))
        return outputs["out"]

    def experts(self) -> dict[int, nn.Module]:
        """The experts module of every layer that has one."""
        modules, name = dict(self.model.named_modules()), self.spec.experts.module
        return {index: modules[path] for index in range(3) if (path := self.spec.layer(index, name)) in modules}

    @property
    def few(self) -> int:
        """Experts to remove: of each group one, or three of nine."""
        return getattr(self.model.config, "n_group", None) or 3 if self.family == "glm4_moe" else 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", params=tiny.MIXTURE_VARIANTS)
def mixture(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    return Mixture(request.param, tmp_path_factory.mktemp("mixture"), data)


@pytest.fixture(scope="module")
def pruned(mixture: Mixture) -> Path:
    """Experts removed at random: those that a criterion removes may write nothing in models this small."""
    return mixture.prune("pruned", experts=mixture.few, expert_criterion="random", seed=1)


def test_the_weights_file_is_the_one_stock_transformers_writes(mixture: Mixture, tmp_path: Path):
    stock, loading = AutoModelForCausalLM.from_pretrained(mixture.base, output_loading_info=True)
    assert not any(loading.values())
    stock.save_pretrained(tmp_path)
    ours, theirs = load_file(mixture.base / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(logits(mixture.model), logits(stock))


def test_an_imported_folder_is_the_same_file(mixture: Mixture):
    found = local_folder.read(mixture.base, torch.float32).weights
    stored = load_file(mixture.base / "model.safetensors")
    assert found.keys() == stored.keys()
    assert all(torch.equal(found[name], stored[name]) for name in stored)


def test_sums_are_those_of_the_experts_by_hand(mixture: Mixture):
    calls: dict[int, tuple[Tensor, ...]] = {}
    with ExitStack() as stack, torch.inference_mode():
        for index, module in mixture.experts().items():
            keep = lambda _, inputs, index=index: calls.__setitem__(index, inputs)  # noqa: E731
            stack.callback(module.register_forward_pre_hook(keep).remove)
        mixture.model(packed(mixture))
    found, names = read_tensors(mixture.stats), ExpertSums.KEPT
    assert {name.partition(".experts.")[0] for name in found if ".experts." in name} == {f"layers.{index}" for index in calls}
    for index, (hidden, chosen, gates) in calls.items():
        for expert in range(mixture.experts()[index].num_experts):
            tokens, places = (chosen == expert).nonzero(as_tuple=True)
            norm = by_hand(mixture.experts()[index], expert, hidden[tokens]).norm(dim=1).double()
            gate = gates[tokens, places].double()
            expected = torch.stack(
                [torch.tensor(len(tokens)).double(), gate.sum(), norm.sum(), (gate * norm).sum(), (gate * norm).square().sum()]
            )
            sums = torch.stack([found[f"layers.{index}.experts.{name}"][expert] for name in names])
            torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-4)


def test_scores_and_loss_are_the_stock_models(mixture: Mixture):
    tokenizer = checkpoint.load_fast_tokenizer(mixture.base)
    result = language_modeling.score(mixture.model, tokenizer, TEXTS[:3], sequence_length=50, batch_tokens=160)
    expected = sum(plain_nats(mixture.model, tokenizer, text, 50) for text in TEXTS[:3])
    assert result.nats == pytest.approx(expected, rel=1e-6)
    assert_loss_is_stock(checkpoint.load_model(mixture.base, torch.float32), 1e-4)


def test_cut_is_the_parent_with_the_lost_router_logits_at_minus_infinity(mixture: Mixture, pruned: Path):
    with without(mixture, kept_experts(pruned)):
        expected = logits(mixture.model)
    torch.testing.assert_close(logits(checkpoint.load_model(pruned, torch.float32)), expected, rtol=0, atol=1e-5)
    assert (expected - logits(mixture.model)).abs().max() > 1e-2


def test_parameters_fall_by_the_experts_that_went(mixture: Mixture, pruned: Path):
    a_layer = sum(tensor[0].numel() for name, tensor in mixture.model.state_dict().items() if name in owned_by_experts(mixture))
    sizes = [checkpoint.sizes(folder)["num_parameters"] for folder in (mixture.base, pruned)]
    assert sizes[0] - sizes[1] == mixture.few * a_layer
    metrics = artifacts.read_json(mixture.folder / "pruned.json")
    assert (metrics["num_removed_experts"], metrics["num_removed_parameters"]) == (mixture.few, sizes[0] - sizes[1])


def test_stock_classes_load_the_cut_to_the_bit(mixture: Mixture, pruned: Path, tmp_path: Path):
    stock, loading = AutoModelForCausalLM.from_pretrained(pruned, output_loading_info=True)
    assert not any(loading.values())
    assert torch.equal(logits(checkpoint.load_model(pruned, torch.float32)), logits(stock))
    stock.save_pretrained(tmp_path)
    ours, theirs = load_file(pruned / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_whole_pipeline_runs(mixture: Mixture, data: Path):
    """Experts, heads and a layer removed, attention refitted, the vocabulary trimmed; tuned and scored."""
    heads, depth = int(bool(mixture.spec.attention_in)), mixture.model.config
    layers = int(not any(getattr(depth, field, False) for field in mixture.spec.depth_switches))
    cut = mixture.prune("whole", experts=mixture.few, heads=heads, layers=layers, refit="least_squares")
    params, trimmed, tuned = mixture.folder / "whole.yaml", mixture.folder / "trimmed", mixture.folder / "tuned"
    prune_embeddings.main(
        arguments(model=cut, counts=data / "counts.parquet", out=trimmed, metrics=mixture.folder / "trim.json", params=params)
    )
    texts = {"validation": data / "text.parquet", "test": data / "text.parquet"}

    def score(folder: Path, name: str) -> dict[str, Any]:
        files = {"questions": data / "mcq.jsonl", "metrics": mixture.folder / name, "replies": mixture.folder / f"{name} replies"}
        evaluate.main(arguments(model=folder, base=mixture.base, **texts, **files, params=params))
        return artifacts.read_json(files["metrics"])

    score(mixture.base, "base metrics")
    files = {"train": data / "text.parquet", "validation": data / "text.parquet", "parent": mixture.folder / "base metrics"}
    written = {name: mixture.folder / f"tuned {name}" for name in ("metrics", "curve", "scratch")}
    finetune.main(arguments(model=trimmed, teacher=mixture.base, out=tuned, params=params, **files, **written))
    curve = artifacts.read_csv(written["curve"])
    assert float(curve[-1]["validation_bits_per_byte"]) < float(curve[0]["validation_bits_per_byte"])
    assert score(tuned, "scores")["validation_bits_per_byte"] == pytest.approx(
        float(curve[-1]["validation_bits_per_byte"]), rel=1e-5
    )


@pytest.mark.parametrize(
    ("variant", "cut", "reason"),
    [
        ("llama", {"experts": 1}, "prune_neurons.experts is 1, but llama models have no experts"),
        ("mixtral", {"experts": 7}, "at least 3 must stay: a token is routed to 3"),
        ("glm4_moe in groups, the first layer dense", {"experts": 4}, "must be a multiple of 3"),
        ("glm4_moe in groups, the first layer dense", {"experts": 9}, "at least 6 must stay"),
        ("qwen3_moe tied, a layer dense", {"layers": 1}, r"config\.json has mlp_only_layers: \[1\]"),
        ("mixtral", {"refit": "bias"}, "needs MLP neurons, and mixtral models have experts instead"),
        ("mixtral", {"allocation": "per_layer", "linear_threshold": 0.1}, "the paper's rule knows no mixtral experts"),
    ],
)
def test_what_a_mixture_cannot_lose_is_refused(variant: str, cut: dict, reason: str, data: Path, tmp_path: Path):
    with pytest.raises(UserError, match=reason) as refusal:
        Mixture(variant, tmp_path, data).prune("refused", **cut)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "refused").exists()


# What the stages should have done, from stock modules and the map beside the checkpoint


def logits(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        return model(TOKENS).logits


def packed(mixture: Mixture) -> Tensor:
    """The calibration text as `sep doc sep doc …`, cut into sequences."""
    tokenizer = checkpoint.load_fast_tokenizer(mixture.base)
    stream = [2, *(token for text in TEXTS for token in [*tokenizer.encode(text).ids, 2])]
    return torch.tensor(stream[: len(stream) // LENGTH * LENGTH]).view(-1, LENGTH)


def by_hand(module: nn.Module, expert: int, hidden: Tensor) -> Tensor:
    """What one expert gives for ``hidden`` (tokens, hidden_size), in plain matrix products."""
    if hasattr(module, "gate_up_proj_bias"):  # gpt-oss: (in, out), gate and up interleaved, biases
        gate_up = hidden @ module.gate_up_proj[expert] + module.gate_up_proj_bias[expert]
        gate, up = gate_up[:, ::2].clamp(max=module.limit), gate_up[:, 1::2].clamp(-module.limit, module.limit)
        return ((up + 1) * gate * torch.sigmoid(gate * module.alpha)) @ module.down_proj[expert] + module.down_proj_bias[expert]
    gate, up = (hidden @ module.gate_up_proj[expert].T).chunk(2, dim=1)
    return (nn.functional.silu(gate) * up) @ module.down_proj[expert].T


def kept_experts(folder: Path) -> dict[int, list[int]]:
    rows = artifacts.read_table(folder / "pruned_experts.parquet", ["layer", "expert", "kept"])
    found: dict[int, list[int]] = {}
    for layer, expert, kept in zip(*rows.values(), strict=True):
        found.setdefault(layer, []).extend([expert] if kept else [])
    return found


def owned_by_experts(mixture: Mixture) -> set[str]:
    """Names in the model of the tensors with an axis of experts."""
    found = set()
    for index, module in mixture.experts().items():
        found |= {mixture.spec.layer(index, f"{mixture.spec.experts.module}.{name}") for name in module.state_dict()}
        found |= {mixture.spec.layer(index, name) for name in mixture.spec.experts.router}
    return found


@contextmanager
def without(mixture: Mixture, kept: dict[int, list[int]]) -> Iterator[None]:
    """Within the block the router logits of the experts outside ``kept`` are −∞, and so is what corrects their choice."""
    state = mixture.model.state_dict()
    lost = {}
    for index in mixture.experts():
        weight, *others = (state[mixture.spec.layer(index, name)] for name in mixture.spec.experts.router)
        lost[weight.data_ptr()] = mask = torch.ones(len(weight), dtype=torch.bool)
        mask[kept[index]] = False
        for other in others:
            other.masked_fill_(mask, -torch.inf)
    linear: Callable[..., Tensor] = nn.functional.linear

    def silencing(given: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        result = linear(given, weight, *rest)
        return result.masked_fill(lost[weight.data_ptr()], -torch.inf) if weight.data_ptr() in lost else result

    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(nn.functional, "linear", silencing)
        yield
    for name, tensor in checkpoint.load_model(mixture.base, torch.float32).state_dict().items():
        state[name].copy_(tensor)
