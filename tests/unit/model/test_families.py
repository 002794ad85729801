"""What the project promises of every family: measuring, cutting, tuning and loading are right for each checkpoint of tiny.VARIANTS.

The stages run as `dvc repro` runs them. What they should have done is worked out here from stock modules, hooks and the maps
that lie beside the checkpoints, not with the code that cuts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from minigpts import artifacts
from minigpts.errors import UserError
from minigpts.evaluation import language_modeling, multiple_choice
from minigpts.model import checkpoint
from minigpts.model.families import SPECS, spec_for
from minigpts.model.weights import read_tensors, write_tensors
from stages import count_tokens, evaluate, finetune, profile_activations, prune_embeddings, prune_neurons
from tests import tiny
from tests.unit.evaluation.test_language_modeling import plain_nats
from tests.unit.evaluation.test_multiple_choice import QUESTIONS, plain_scores
from tests.unit.model.test_loss import assert_loss_is_stock

TEXTS = tiny.sentences(24)
LENGTH = 40  # tokens in a sequence: longer than the sliding windows

PARAMS: dict[str, Any] = {
    "threshold": 0.0,
    "embedding_threshold": 0.0,
    "profile": {"sequence_length": LENGTH, "all_linear": True, "gradient_tokens": 0},
    "prune_neurons": {
        "criterion": "wanda",
        "allocation": "uniform",
        "multiple_of": 1,
        "refit": "none",
        "linear_threshold": None,
        "experts": 0,
        "expert_criterion": "contribution",
        "heads": 0,
        "layers": 0,
        "sequence_length": LENGTH,
        "seed": 0,
    },
    "finetune": {
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "warmup_share": 0.0,
        "batch_size": 2,
        "sequence_length": LENGTH,
        "max_tokens": 6 * LENGTH,
        "max_epochs": 1,
        "stop": "budget",
        "patience": 1,
        "evaluations": 1,
        "seed": 0,
        "distillation": 0.5,
        "teacher": "base",
        "freeze_embeddings": True,
        "lora_rank": 0,
        "general": None,
        "general_share": 0.0,
    },
    "evaluate": {"sequence_length": 64, "chat": False},
    "speech": {"tokens": 0},
    "runtime": {"batch_tokens": 160, "num_threads": None, "launcher": None},
}


def arguments(**values: Path) -> list[str]:
    return [text for name, value in values.items() for text in (f"--{name}", str(value))]


class Family:
    """One checkpoint of tiny.VARIANTS, profiled by the stage, and what the stages make of it."""

    def __init__(self, variant: str, folder: Path, data: Path) -> None:
        family, changes = tiny.VARIANTS[variant]
        self.folder, self.data, self.spec = folder, data, spec_for(family)
        self.base = tiny.write_checkpoint(folder / "base", family, **changes)
        self.model = checkpoint.load_model(self.base, torch.float32)
        self.config, self.tokenizer = self.model.config, checkpoint.load_fast_tokenizer(self.base)
        self.stats = folder / "stats.safetensors"
        params = self.params("base", {})
        profile_activations.main(arguments(model=self.base, text=data / "text.parquet", out=self.stats, params=params))
        # Layer 0 is said to do nothing, so that it is the one that goes and the numbers of those that stay change.
        statistics = read_tensors(self.stats)
        self.mean_abs = torch.stack([statistics[f"layers.{index}.mlp.abs_sum"] for index in range(3)]) / statistics["count"]
        statistics["layers.0.block.cosine_sum"] = statistics["count"].double()
        self.tilted_stats = folder / "tilted_stats.safetensors"
        write_tensors(self.tilted_stats, statistics)

    def params(self, name: str, prune: dict[str, Any], **top: float) -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**PARAMS, **top, "prune_neurons": {**PARAMS["prune_neurons"], **prune}}))
        return path

    def prune(self, name: str, threshold: float | None = None, **settings: Any) -> Path:
        """The prune_neurons stage's checkpoint folder; its metrics lie beside it as json. A tenth of the neurons goes, unless
        ``threshold`` says which."""
        threshold = float(self.mean_abs.quantile(0.1)) if threshold is None else threshold
        params = self.params(name, settings, threshold=threshold)
        outputs = {"out": self.folder / name, "metrics": self.folder / f"{name}.json", "widths": self.folder / f"{name}.csv"}
        prune_neurons.main(
            arguments(model=self.base, stats=self.tilted_stats, text=self.data / "text.parquet", params=params, **outputs)
        )
        return outputs["out"]

    def trim(self, source: Path, name: str) -> Path:
        """The prune_embeddings stage's checkpoint folder."""
        out, metrics, params = self.folder / name, self.folder / f"{name}.json", self.params(name, {})
        prune_embeddings.main(arguments(model=source, counts=self.data / "counts.parquet", out=out, metrics=metrics, params=params))
        return out

    @property
    def most_heads(self) -> int:
        kept = any(getattr(self.config, field, False) for field in self.spec.head_switches)
        return 1 if self.spec.attention_in and not kept else 0

    def module(self, index: int, name: str) -> nn.Module:
        return self.model.get_submodule(self.spec.layer(index, name))


def write_data(folder: Path) -> Path:
    """Texts, questions and the token counts that all variants share, since they share the tokenizer."""
    artifacts.write_table(folder / "text.parquet", {"text": TEXTS})
    artifacts.write_jsonl(folder / "mcq.jsonl", [{**question, "split": "test"} for question in QUESTIONS[:4]])
    tiny.write_tokenizer(folder)
    count_tokens.main(arguments(tokenizer=folder / "tokenizer.json", text=folder / "text.parquet", out=folder / "counts.parquet"))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", params=tiny.VARIANTS)
def family(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family(request.param, tmp_path_factory.mktemp("family"), data)


@pytest.fixture(scope="module")
def pruned(family: Family) -> tuple[Path, Path]:
    """Neurons, heads and a layer cut, the widths equal, then the vocabulary too: what stock classes load."""
    neurons = family.prune("neurons", heads=family.most_heads, layers=1)
    return neurons, family.trim(neurons, "pruned")


@pytest.fixture(scope="module")
def saved_for_strangers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Filled by the test of each variant, read by the last test of the module."""
    return {}


def test_every_family_has_a_tiny_config():
    assert {*tiny.FAMILIES, *tiny.MIXTURES} == set(SPECS)
    assert set(tiny.FAMILIES) == {family for family, _ in tiny.VARIANTS.values()}
    assert set(tiny.MIXTURES) == {family for family, _ in tiny.MIXTURE_VARIANTS.values()}


# Measuring


def test_statistics_are_those_of_the_modules(family: Family):
    ids = torch.from_numpy(_packed(family))
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            entering = args[0] if args else kwargs["hidden_states"]
            leaving = output if isinstance(output, Tensor) else output[0]
            inputs[name], outputs[name] = (value.flatten(0, -2).double() for value in (entering, leaving))

        return hook

    with ExitStack() as stack, torch.inference_mode():
        for name, module in family.model.named_modules():
            if name.startswith(f"{family.spec.layers}."):
                stack.callback(module.register_forward_hook(keep(name), with_kwargs=True).remove)
        family.model(ids)
    expected = {"count": torch.tensor(ids.numel())}
    for index in range(3):
        name = family.spec.layer(index, family.spec.mlp_out)
        neurons, heads = inputs[name], inputs.get(family.spec.layer(index, family.spec.attention_out))
        expected[f"layers.{index}.mlp.abs_sum"] = neurons.abs().sum(0)
        expected[f"layers.{index}.mlp.sum"] = neurons.sum(0)
        expected[f"layers.{index}.mlp.square_sum"] = neurons.square().sum(0)
        num_heads = family.config.num_attention_heads
        if heads is not None:  # a hybrid's other layers have none
            expected[f"layers.{index}.heads.square_sum"] = heads.view(len(heads), num_heads, -1).square().sum((0, 2))
        block = f"{family.spec.layers}.{index}"
        expected[f"layers.{index}.block.cosine_sum"] = nn.functional.cosine_similarity(inputs[block], outputs[block]).sum()
    for name, (_, bias) in _linears(family.model, family.spec.layers).items():
        expected[f"linear.{name}.input_abs_sum"] = inputs[name].abs().sum(0)
        expected[f"linear.{name}.output_abs_sum"] = outputs[name].abs().sum(0)
        expected[f"linear.{name}.output_minus_bias_abs_sum"] = (outputs[name] - (0 if bias is None else bias)).abs().sum(0)
    found = read_tensors(family.stats)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-4, check_dtype=False, msg=name)


def test_scores_are_the_stock_models(family: Family):
    texts = TEXTS[:4]
    result = language_modeling.score(family.model, family.tokenizer, texts, sequence_length=50, batch_tokens=160)
    assert result.nats == pytest.approx(sum(plain_nats(family.model, family.tokenizer, text, 50) for text in texts), rel=1e-6)


def test_answers_are_scored_as_if_each_stood_alone(family: Family):
    scores = multiple_choice.score(family.model, family.tokenizer, QUESTIONS[:4], batch_tokens=300)
    for question, found in zip(QUESTIONS, scores, strict=False):
        np.testing.assert_allclose(found, plain_scores(family.model, family.tokenizer, question), atol=1e-4, rtol=0)


def test_the_loss_of_fine_tuning_is_the_stock_models(family: Family):
    assert_loss_is_stock(checkpoint.load_model(family.base, torch.float32), 1e-4)


# Cutting


def test_shrunk_is_masked(family: Family, pruned: tuple[Path, Path]):
    for folder in pruned:
        _assert_equals_masked(family, folder)


def test_parameters_fall_by_what_went(family: Family, pruned: tuple[Path, Path]):
    neurons, both = pruned
    base, cut, trimmed = (checkpoint.sizes(folder) for folder in (family.base, neurons, both))
    assert cut["num_parameters"] == base["num_parameters"] - _parameters_that_went(family, neurons)
    embedding, head = (family.model.get_submodule(name) for name in (family.spec.embedding, family.spec.lm_head))
    a_row = embedding.embedding_dim + (0 if family.config.tie_word_embeddings else head.in_features) + (head.bias is not None)
    assert trimmed["num_parameters"] == cut["num_parameters"] - (base["vocab_size"] - trimmed["vocab_size"]) * a_row
    assert trimmed["vocab_size"] < base["vocab_size"]
    assert artifacts.read_json(family.folder / "neurons.json")["num_removed_parameters"] == _parameters_that_went(family, neurons)


def test_generates_the_same_with_and_without_cache(family: Family, pruned: tuple[Path, Path]):
    model = checkpoint.load_model(pruned[1], torch.float32)
    prompt = torch.arange(20, 36)[None]
    options = dict(do_sample=False, max_new_tokens=8, min_new_tokens=8, output_logits=True, return_dict_in_generate=True)
    cached, plain = (model.generate(prompt, use_cache=use_cache, **options) for use_cache in (True, False))
    assert torch.equal(cached.sequences, plain.sequences)
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(plain.logits), rtol=0, atol=1e-4)


def test_stock_classes_load_it_to_the_bit(
    family: Family, pruned: tuple[Path, Path], request: pytest.FixtureRequest, saved_for_strangers: dict[str, Path]
):
    ids = torch.arange(20, 60).view(2, 20)
    model = checkpoint.load_model(pruned[1], torch.float32)
    stock, loading = AutoModelForCausalLM.from_pretrained(pruned[1], output_loading_info=True)
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, stock(ids).logits)
    assert not any(loading.values())
    saved_for_strangers[request.node.callspec.id] = pruned[1]


@pytest.mark.parametrize(("allocation", "num_layers"), [("per_layer", 0), ("adaptive", 1)])
def test_uneven_widths(family: Family, allocation: str, num_layers: int):
    means = family.mean_abs
    threshold = float(means.quantile(0.3))
    settings = {"layers": num_layers, "heads": num_layers * family.most_heads}
    folder = family.prune(allocation, threshold, allocation=allocation, **settings)
    staying = [index for index, kept in enumerate(_kept(family, folder)) if kept is not None]
    child = checkpoint.load_model(folder, torch.float32)
    modules = [child.get_submodule(family.spec.layer(index, family.spec.mlp_out)) for index in range(len(staying))]
    widths = [_in_features(module) for module in modules]
    assert sum(widths) == (means[staying] > threshold).sum()
    assert len(set(widths)) > 1 or num_layers  # two layers can be as wide by chance
    _assert_equals_masked(family, folder)


def test_the_papers_linear_rule(family: Family):
    """What it marks is zero, what it can remove is gone, and the logits are those of the parent with the zeros written in."""
    means = read_tensors(family.stats)
    sums = {name: value for name, value in means.items() if name.startswith("linear.") and not name.endswith("minus_bias_abs_sum")}
    read = [value for name, value in sums.items() if name.endswith(f"{family.spec.mlp_out}.input_abs_sum")]
    # A part of all rows and columns, and a part of the neurons at least.
    threshold = float(max(torch.cat([*sums.values()]).quantile(0.1), torch.cat(read).quantile(0.05)) / means["count"])
    folder = family.prune("linear", 0.0, allocation="per_layer", linear_threshold=threshold)
    zeroed = checkpoint.load_model(family.base, torch.float32)
    with torch.no_grad():
        for name, (weight, bias) in _linears(zeroed, family.spec.layers).items():
            small = {
                key: means[f"linear.{name}.{key}_abs_sum"] / means["count"] <= threshold
                for key in ("input", "output", "output_minus_bias")
            }
            weight[small["output_minus_bias"]] = 0  # rows are outputs
            weight[:, small["input"]] = 0
            if bias is not None:
                bias[small["output_minus_bias"] & small["output"]] = 0
    ids = torch.arange(20, 60).view(2, 20)
    with torch.inference_mode():
        expected = zeroed(ids).logits
        torch.testing.assert_close(checkpoint.load_model(folder, torch.float32)(ids).logits, expected, rtol=0, atol=1e-4)
        assert (expected - family.model(ids).logits).abs().max() > 1e-2
    for index, (neurons, _) in enumerate(_kept(family, folder)):
        linears = _linears(zeroed, f"{family.spec.layers}.{index}")
        read = linears[family.spec.layer(index, family.spec.mlp_out)][0].any(0)
        makers = [linears[family.spec.layer(index, name)] for name in family.spec.mlp_in]
        rows = [weight.any(1) if bias is None else weight.any(1) | (bias != 0) for weight, bias in makers]
        made = torch.stack([block for row in rows for block in row.chunk(family.spec.mlp_in_blocks)]).all(0)
        assert neurons == (read & made).nonzero().flatten().tolist()
    assert artifacts.read_json(family.folder / "linear.json")["num_removed_neurons"] > 0
    assert artifacts.read_json(family.folder / "linear.json")["num_zeroed_parameters"] > 0


@pytest.mark.parametrize("refit", ["bias", "least_squares"])
def test_refit_loads_with_stock_classes_and_brings_the_model_nearer(family: Family, refit: str):
    settings = {"threshold": float(family.mean_abs.quantile(0.2)), "criterion": "random"}
    if refit == "bias" and family.spec.mlp_bias_field is None and family.module(0, family.spec.mlp_out).bias is None:
        with pytest.raises(UserError, match="can't have"):
            family.prune(refit, refit=refit, **settings)
        assert not (family.folder / refit).exists()
        return
    ids = torch.from_numpy(_packed(family))
    folders = [family.prune(f"not {refit}", **settings), family.prune(refit, refit=refit, **settings)]
    with torch.inference_mode():
        expected = family.model(ids).logits
        errors = [(AutoModelForCausalLM.from_pretrained(folder)(ids).logits - expected).square().mean() for folder in folders]
    assert errors[1] < errors[0]


def test_no_layer_can_lose_all_its_heads(family: Family):
    with pytest.raises(UserError, match=r"^params\.yaml: prune_neurons\.heads is [^\n]*$"):
        family.prune("refused", heads=family.config.num_attention_heads)
    assert not (family.folder / "refused").exists()


LONG_ROPE = {"rope_type": "longrope", "factor": 4.0, "short_factor": [1.0] * 5, "long_factor": [1.5] * 5}


@pytest.mark.parametrize(
    ("name", "changes", "cut", "reason"),
    [
        ("llama", {"num_key_value_heads": 4}, {"heads": 1}, "not a multiple of the number of attention heads"),
        ("gemma2", {"num_key_value_heads": 4}, {"heads": 1}, "not a multiple of the number of attention heads"),
        ("phi", {"qk_layernorm": True}, {"heads": 1}, "qk_layernorm: true"),
        (
            "phi3",
            {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 64},
            {"heads": 1},
            "must have length 10, got 5",
        ),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, {"layers": 1}, "scale_attn_by_inverse_layer_idx: true"),
    ],
)
def test_what_stock_classes_cannot_hold_is_refused(
    name: str, changes: dict, cut: dict, reason: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(tiny.VARIANTS, "refusing", (name, changes))
    with pytest.raises(UserError, match=reason) as refusal:
        Family("refusing", tmp_path, data).prune("refused", **cut)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "refused").exists()


# The whole way


def test_the_whole_pipeline_runs(family: Family, pruned: tuple[Path, Path], data: Path):
    params = family.params("whole", {})
    texts = {"validation": data / "text.parquet", "test": data / "text.parquet"}
    for name, folder in (("base metrics", family.base), ("tuned metrics", family.folder / "tuned")):
        if name == "tuned metrics":
            finetune.main(
                arguments(
                    model=pruned[1],
                    train=data / "text.parquet",
                    validation=data / "text.parquet",
                    teacher=family.base,
                    parent=family.folder / "base metrics",
                    out=folder,
                    metrics=family.folder / "finetune.json",
                    curve=family.folder / "recovery.csv",
                    scratch=family.folder / "scratch",
                    params=params,
                )
            )
        evaluate.main(
            arguments(
                model=folder,
                base=family.base,
                **texts,
                questions=data / "mcq.jsonl",
                metrics=family.folder / name,
                replies=family.folder / f"{name} replies",
                params=params,
            )
        )
    curve = artifacts.read_csv(family.folder / "recovery.csv")
    assert float(curve[-1]["validation_bits_per_byte"]) < float(curve[0]["validation_bits_per_byte"])
    tuned = artifacts.read_json(family.folder / "tuned metrics")
    assert tuned["validation_bits_per_byte"] == pytest.approx(float(curve[-1]["validation_bits_per_byte"]), rel=1e-5)
    assert tuned["num_parameters"] == checkpoint.sizes(pruned[1])["num_parameters"]


def test_stock_classes_load_them_to_the_bit_in_a_clean_process(saved_for_strangers: dict[str, Path], tmp_path: Path):
    """One process for all: it knows nothing of this project."""
    assert saved_for_strangers, "run the tests of the families too: they save what is loaded here"
    ids = torch.arange(20, 60).view(2, 20)
    script = (
        "import json, sys, torch; from safetensors.torch import save_file; from transformers import AutoModelForCausalLM\n"
        "sys.modules['minigpts'] = None\n"
        "ids = torch.arange(20, 60).view(2, 20)\n"
        "with torch.inference_mode():\n"
        "    save_file({name: AutoModelForCausalLM.from_pretrained(path)(ids).logits\n"
        "               for name, path in json.loads(sys.argv[1]).items()}, sys.argv[2])\n"
    )
    paths = json.dumps({name: str(path) for name, path in saved_for_strangers.items()})
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # as here: sums in another order are not equal to the bit
    command = [sys.executable, "-I", "-c", script, paths, str(tmp_path / "logits.safetensors")]
    subprocess.run(command, env={**os.environ, **threads}, check=True)
    found = load_file(tmp_path / "logits.safetensors")
    assert found.keys() == saved_for_strangers.keys()
    for name, path in saved_for_strangers.items():
        with torch.inference_mode():
            assert torch.equal(found[name], checkpoint.load_model(path, torch.float32)(ids).logits)


# What the stages should have done, from stock modules and the maps beside the checkpoints


def _packed(family: Family) -> np.ndarray:
    """The calibration text as `sep doc sep doc …`, cut into sequences; the separator is the end of text, 2."""
    stream = [2, *(token for text in TEXTS for token in [*family.tokenizer.encode(text).ids, 2])]
    return np.array(stream[: len(stream) // LENGTH * LENGTH]).reshape(-1, LENGTH)


def _linears(model: nn.Module, under: str) -> dict[str, tuple[Tensor, Tensor | None]]:
    """The linear layers of a module by full name: weight as (out_features, in_features), whichever way it lies, and bias."""
    kinds = {"Linear": lambda weight: weight, "Conv1D": lambda weight: weight.T}
    modules = model.get_submodule(under).named_modules(prefix=under)
    return {name: (kinds[kind](m.weight), m.bias) for name, m in modules if (kind := type(m).__name__) in kinds}


def _kept(family: Family, folder: Path) -> list[tuple[list[int], list[int]] | None]:
    """By layer of the parent, the neurons and key/value groups that stayed; None for a layer that went."""

    def units(stem: str, unit: str) -> list[list[int]]:
        table = artifacts.read_table(folder / f"{stem}.parquet", ["layer", unit, "kept"])
        rows = list(zip(*table.values(), strict=True))
        return [[number for layer, number, kept in rows if layer == index and kept] for index in range(3)]

    neurons, groups = units("pruned_neurons", "neuron"), [list(range(_num_groups(family)))] * 3
    if (folder / "pruned_heads.parquet").exists():  # written when some go
        groups = units("pruned_heads", "key_value_head")
    stayed = artifacts.read_table(folder / "pruned_layers.parquet", ["kept"])["kept"]
    return [(neurons[index], groups[index]) if stayed[index] else None for index in range(3)]


def _num_groups(family: Family) -> int:
    return getattr(family.config, "num_key_value_heads", None) or family.config.num_attention_heads


@contextmanager
def _masked(family: Family, folder: Path) -> Iterator[None]:
    """Within the block the parent's units that went write nothing: neurons, heads' outputs, whole layers."""

    def zero_all_but(kept: Tensor) -> Callable[..., tuple[Tensor]]:
        return lambda _, inputs: (torch.where(torch.isin(torch.arange(inputs[0].shape[-1]), kept), inputs[0], 0.0),)

    with ExitStack() as stack:
        for index, kept in enumerate(_kept(family, folder)):
            layer = family.model.get_submodule(f"{family.spec.layers}.{index}")
            mlp_out, attention_out = (
                family.module(index, family.spec.mlp_out),
                dict(layer.named_modules()).get(family.spec.attention_out),
            )
            if kept is None:

                def hand_on(_: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
                    entering = args[0] if args else kwargs["hidden_states"]
                    return entering if isinstance(output, Tensor) else (entering, *output[1:])

                stack.callback(layer.register_forward_hook(hand_on, with_kwargs=True).remove)
                continue
            neurons, groups = kept
            stack.callback(mlp_out.register_forward_pre_hook(zero_all_but(torch.tensor(neurons))).remove)
            if attention_out is not None:
                features = torch.arange(_in_features(attention_out)).view(_num_groups(family), -1)[groups].flatten()
                stack.callback(attention_out.register_forward_pre_hook(zero_all_but(features)).remove)
        yield


def _in_features(module: nn.Module) -> int:
    return module.weight.shape[0 if type(module).__name__ == "Conv1D" else 1]


def _assert_equals_masked(family: Family, folder: Path) -> None:
    """The logits of the tokens that stayed are the masked parent's, on text of such tokens."""
    old = torch.arange(family.config.vocab_size)
    if (folder / "pruned_tokens.parquet").exists():
        table = artifacts.read_table(folder / "pruned_tokens.parquet", ["token_id", "new_id"])
        old = torch.tensor([token for token, new in zip(table["token_id"], table["new_id"], strict=True) if new >= 0])
    new = torch.randint(3, len(old), (3, LENGTH), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        with _masked(family, folder):
            expected = family.model(old[new]).logits[..., old]
        found = checkpoint.load_model(folder, torch.float32)(new).logits
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        assert (expected - family.model(old[new]).logits[..., old]).abs().max() > 1e-2


def _parameters_that_went(family: Family, folder: Path) -> int:
    hidden_size, total = family.config.hidden_size, 0
    for index, kept in enumerate(_kept(family, folder)):
        if kept is None:
            layer = family.model.get_submodule(f"{family.spec.layers}.{index}")
            total += sum(parameter.numel() for parameter in layer.parameters())
            continue
        neurons, groups = kept
        makers = [family.module(index, name) for name in family.spec.mlp_in]
        a_neuron = hidden_size * (1 + len(makers) * family.spec.mlp_in_blocks)
        a_neuron += sum(maker.bias is not None for maker in makers) * family.spec.mlp_in_blocks
        total += (77 - len(neurons)) * a_neuron
        if len(groups) == _num_groups(family):
            continue
        read = _in_features(family.module(index, family.spec.attention_out)) // _num_groups(family)  # of a group
        head_dim = read * _num_groups(family) // family.config.num_attention_heads
        biased = any(family.module(index, name).bias is not None for name in family.spec.attention_in)
        a_group = hidden_size * read + (hidden_size + biased) * (read + 2 * head_dim)
        total += (_num_groups(family) - len(groups)) * a_group
    return total
