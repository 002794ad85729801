"""The cut is physical and exact: the shrunk model's logits are the full model's with the same units masked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from minigpts.errors import UserError
from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from minigpts.model.weights import StoredWeights, num_parameters
from minigpts.profiling.recorder import profile
from minigpts.profiling.statistics import Statistics
from minigpts.pruning import allocation, cutting, index_maps, layers, linear, neurons, refit, slicing
from minigpts.pruning.params import ByPlan, ByThreshold, Params
from tests import tiny

TOKENS = torch.randint(0, 300, (6, 40), generator=torch.Generator().manual_seed(1))
PARAMS = Params(
    criterion="wanda",
    allocation="uniform",
    multiple_of=1,
    refit="none",
    linear_threshold=None,
    experts=0,
    expert_criterion="contribution",
    heads=0,
    layers=0,
    sequence_length=32,
    seed=0,
)


class Parent:
    """A tiny model with its statistics."""

    def __init__(self, directory: Path, family: str, **changes: object) -> None:
        self.directory = tiny.write_checkpoint(directory, family, **changes)
        self.config = checkpoint.load_config(self.directory)
        self.spec = spec_for(family)
        self.stored = StoredWeights(self.directory)
        self.model = checkpoint.load_model(self.directory, torch.float32)
        self.statistics = profile(self.model, self.spec, TOKENS, all_linear=True)

    @property
    def parent(self) -> cutting.Parent:
        return cutting.Parent(self.directory, self.config, self.spec, self.stored, Statistics(self.statistics))

    def cut(self, *, removed_share: float | None = 0.25, threshold: float = 0.0, **changes: object) -> cutting.Cut:
        """A cut by a plan of ``removed_share`` of the neurons, or, where that is None, by ``threshold``."""
        parent, params = self.parent, replace(PARAMS, **changes)
        if removed_share is None:
            return cutting.choose(parent, ByThreshold(params, threshold))
        kept = layers.kept(layers.scores(parent.statistics), params.layers, [True] * parent.config.num_hidden_layers)
        found = neurons.scores(self.stored, self.spec, parent.statistics, params.criterion, seed=0)
        number = len(kept) * round(77 * (1 - removed_share))
        widths = neurons.widths_of_sum(found, kept, number, allocation=params.allocation, multiple_of=1)
        return cutting.choose(parent, ByPlan(params, widths, params.heads, params.layers))

    def saved(self, folder: Path, cut: cutting.Cut, changed: Iterable[refit.ChangedLayer] | None = None) -> Path:
        """The checkpoint of the cut; its layers are ``changed``, or made up for as the cut's params say."""
        if changed is None:
            config, tensors = cutting.child(self.parent, cut, [], torch.device("cpu"))
        else:
            config = cutting.shrunk_config(self.config, self.spec, cut, with_biases=False)
            tensors = cutting.named(self.stored, self.spec, cut.layers, changed)
        with checkpoint.saving(folder, config, tensors, companions=self.directory):
            pass
        return folder

    def refitted(self, folder: Path, cut: cutting.Cut) -> torch.nn.Module:
        """The model cut and refitted on TOKENS."""
        child = cutting.shrunk_config(self.config, self.spec, cut, with_biases=False)
        changed = refit.least_squares(self.stored, self.config, child, self.spec, cut.layers, cut.attention, TOKENS)
        return checkpoint.load_model(self.saved(folder, cut, changed), torch.float32)

    def masked_logits(self, cut: cutting.Cut, instead: Mapping[int, Tensor] | None = None) -> Tensor:
        """The whole model's logits with the activations of what goes set to zero, or to ``instead`` of their layer."""
        handles = []
        for layer in cut.layers:
            module = self.model.get_submodule(self.spec.layer(layer.index, self.spec.mlp_out))
            stay = torch.isin(torch.arange(module.in_features), layer.neurons)
            value = torch.tensor(0.0) if instead is None else instead[layer.index].float()
            hook = lambda _, inputs, stay=stay, value=value: (torch.where(stay, inputs[0], value),)  # noqa: E731
            handles.append(module.register_forward_pre_hook(hook))
        with torch.inference_mode():
            logits = self.model(TOKENS).logits
        for handle in handles:
            handle.remove()
        return logits


def logits(folder: Path) -> Tensor:
    with torch.inference_mode():
        return checkpoint.load_model(folder, torch.float32)(TOKENS).logits


def stock_logits(folder: Path) -> Tensor:
    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(folder)(TOKENS).logits


@pytest.fixture(
    params=[("llama", {}), ("llama", {"tie_word_embeddings": False, "mlp_bias": True, "attention_bias": True}), ("opt", {})]
)
def parent(request: pytest.FixtureRequest, tmp_path: Path) -> Parent:
    family, changes = request.param
    return Parent(tmp_path / "parent", family, **changes)


@pytest.mark.parametrize("allocation", ["per_layer", "uniform", "adaptive"])
def test_shrunk_equals_masked(parent: Parent, tmp_path: Path, allocation: str):
    cut = parent.cut(allocation=allocation, criterion="l1" if allocation == "per_layer" else "wanda")
    folder = parent.saved(tmp_path / "shrunk", cut)
    torch.testing.assert_close(logits(folder), parent.masked_logits(cut), rtol=0, atol=1e-4)
    num_removed = sum(77 - len(layer.neurons) for layer in cut.layers)
    assert num_removed == 3 * 19
    assert allocation != "uniform" or {len(layer.neurons) for layer in cut.layers} == {58}
    fewer = num_parameters(parent.stored.shapes) - checkpoint.sizes(folder)["num_parameters"]
    assert fewer == num_removed * neurons.parameters_per_neuron(parent.stored.shapes, parent.spec)


def test_uniform_widths_load_with_the_stock_class_to_the_bit(parent: Parent, tmp_path: Path):
    folder = parent.saved(tmp_path / "shrunk", parent.cut())
    assert torch.equal(logits(folder), stock_logits(folder))


def test_uneven_widths_can_be_cut_again(parent: Parent, tmp_path: Path):
    cut = parent.cut(allocation="adaptive")
    folder = parent.saved(tmp_path / "shrunk", cut)
    statistics = profile(checkpoint.load_model(folder, torch.float32), parent.spec, TOKENS)
    for index, layer in enumerate(cut.layers):
        assert len(statistics[f"layers.{index}.mlp.abs_sum"]) == len(layer.neurons)


def test_removed_groups_are_those_whose_output_columns_are_zeroed(tmp_path: Path):
    parent = Parent(tmp_path / "parent", "llama", num_attention_heads=8, num_key_value_heads=4, head_dim=6, attention_bias=True)
    cut = parent.cut(removed_share=None, heads=2)
    folder = parent.saved(tmp_path / "shrunk", cut)
    config = checkpoint.load_config(folder)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 2, 6)
    with torch.inference_mode():
        for layer in cut.layers:
            weight = parent.model.get_submodule(parent.spec.layer(layer.index, parent.spec.attention_out)).weight
            gone = ~torch.isin(torch.arange(4), layer.groups)
            weight.view(40, 4, -1)[:, gone] = 0
        expected = parent.model(TOKENS).logits
    torch.testing.assert_close(logits(folder), expected, rtol=0, atol=1e-4)
    assert torch.equal(logits(folder), stock_logits(folder))


def test_removed_layers_are_skipped_and_lists_follow(tmp_path: Path):
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    parent = Parent(tmp_path / "parent", "qwen2", layer_types=kinds, use_sliding_window=True, sliding_window=8)
    cut = parent.cut(removed_share=None, layers=1)
    (gone,) = {0, 1, 2} - {layer.index for layer in cut.layers}
    influence = [1 - float(parent.statistics[f"layers.{index}.block.cosine_sum"]) / TOKENS.numel() for index in range(3)]
    assert influence[gone] == min(influence)
    folder = parent.saved(tmp_path / "shrunk", cut)
    assert checkpoint.load_config(folder).layer_types == [kind for index, kind in enumerate(kinds) if index != gone]
    parent.model.get_submodule(parent.spec.layers)[gone].forward = lambda hidden, *_, **__: hidden
    with torch.inference_mode():
        expected = parent.model(TOKENS).logits
    assert torch.equal(logits(folder), expected) and torch.equal(stock_logits(folder), expected)


def test_what_stock_classes_cannot_hold_is_refused(tmp_path: Path):
    for family, changes, number, message in [
        ("opt", {}, 1, "opt models can lose no head"),
        ("llama", {}, 2, "each layer has 2 key/value groups; at least one must stay"),
        (
            "llama",
            {"num_attention_heads": 4, "num_key_value_heads": 4},
            1,
            "leaves 3 heads, which llama's config refuses",
        ),  # 40 % 3
    ]:
        parent = Parent(tmp_path / f"{family}{number}{len(changes)}", family, **changes)
        with pytest.raises(UserError, match=message):
            parent.saved(tmp_path / "shrunk", parent.cut(removed_share=None, heads=number))
    with pytest.raises(UserError, match=r"prune_neurons.layers is 3, but the model has 3 layers"):
        parent.cut(layers=3)
    assert not (tmp_path / "shrunk").exists()


def test_the_papers_rule_takes_the_very_neurons_at_or_below_epsilon(parent: Parent, tmp_path: Path):
    means = torch.stack([parent.statistics[f"layers.{index}.mlp.abs_sum"] for index in range(3)]) / TOKENS.numel()
    threshold = float(means.flatten().sort().values[70])
    cut = parent.cut(criterion="l1", allocation="per_layer", threshold=threshold, removed_share=None)
    for layer in cut.layers:
        assert layer.neurons.tolist() == (means[layer.index] > threshold).nonzero().flatten().tolist()
    parent.saved(tmp_path / "shrunk", cut)
    metrics = cutting.metrics(cut, parent.stored, StoredWeights(tmp_path / "shrunk"), parent.spec)
    assert (metrics["decided_by"], metrics["threshold"], metrics["num_below_threshold"]) == ("threshold", threshold, 71)
    assert metrics["below_threshold_share"] == 71 / metrics["num_candidate_neurons"] == 71 / (3 * 77)


def test_a_plan_leaves_no_trace_of_the_threshold(parent: Parent, tmp_path: Path):
    cut = parent.cut()
    parent.saved(tmp_path / "shrunk", cut)
    metrics = cutting.metrics(cut, parent.stored, StoredWeights(tmp_path / "shrunk"), parent.spec)
    assert metrics["decided_by"] == "plan" and not [name for name in metrics if "threshold" in name or "candidate" in name]
    assert metrics["num_removed_neurons"] == 3 * 19


def test_statistics_of_another_model_are_refused(parent: Parent):
    whole = dict(parent.statistics)
    parent.statistics = {"count": torch.tensor(1)}
    with pytest.raises(UserError, match="don't fit this model's layers; run profile_activations again"):
        parent.cut()
    for name in ("layers.1.mlp.abs_sum", "layers.1.heads.square_sum"):
        parent.statistics = {**whole, name: whole[name][:-1]}
        with pytest.raises(UserError, match="don't fit layer 1 of this model; run profile_activations again"):
            parent.cut()


def test_linear_rule_zeroes_what_it_cannot_remove(tmp_path: Path):
    parent = Parent(tmp_path / "parent", "llama", mlp_bias=True, attention_bias=True)
    threshold = float((parent.statistics["linear.model.layers.1.mlp.up_proj.output_minus_bias_abs_sum"] / TOKENS.numel()).median())
    marked = linear.marks(Statistics(parent.statistics), threshold)
    whole = linear.zeroed(parent.stored, marked, parent.spec)
    for name, mark in marked.items():
        sums = {
            key: parent.statistics[f"linear.{name}.{key}_abs_sum"] / TOKENS.numel()
            for key in ("input", "output", "output_minus_bias")
        }
        for row in range(len(mark.rows)):
            if sums["output_minus_bias"][row] <= threshold:
                assert not whole[f"{name}.weight"][row].any()
                goes = sums["output"][row] <= threshold  # a bias goes only if the biased output is small too
                assert torch.equal(whole[f"{name}.bias"][row], torch.tensor(0.0) if goes else parent.stored[f"{name}.bias"][row])
        for column in (sums["input"] <= threshold).nonzero().flatten():
            assert not whole[f"{name}.weight"][:, column].any()
        untouched = ~(mark.rows[:, None] | mark.columns[None, :])
        assert torch.equal(whole[f"{name}.weight"][untouched], parent.stored[f"{name}.weight"][untouched])


@pytest.mark.parametrize(("family", "changes"), [("llama", {}), ("llama", {"mlp_bias": True}), ("opt", {})])
def test_neurons_the_linear_rule_removes_were_silent(tmp_path: Path, family: str, changes: dict):
    """Removing them from the zeroed model changes no logit."""
    parent = Parent(tmp_path / "parent", family, **changes)
    means = torch.cat([parent.statistics[f"layers.{index}.mlp.abs_sum"] for index in range(3)]) / TOKENS.numel()
    rule = float(means.sort().values[100])
    cut = parent.cut(criterion="l1", allocation="per_layer", threshold=-1.0, removed_share=None, linear_threshold=rule)
    assert 0 < sum(77 - len(layer.neurons) for layer in cut.layers) < 3 * 77
    whole = linear.zeroed(parent.stored, cut.marked, parent.spec)
    with checkpoint.saving(tmp_path / "zeroed", parent.config, whole.items(), companions=parent.directory):
        pass
    shrunk = parent.saved(tmp_path / "shrunk", cut)
    torch.testing.assert_close(logits(shrunk), logits(tmp_path / "zeroed"), rtol=0, atol=1e-4)
    metrics = cutting.metrics(cut, parent.stored, StoredWeights(shrunk), parent.spec)
    zeros = sum(int((tensor == 0).sum()) for tensor in StoredWeights(shrunk).values())
    assert metrics["num_zeroed_parameters"] == zeros > 0


def test_folded_means_are_the_model_with_neurons_held_at_their_mean(tmp_path: Path):
    parent = Parent(tmp_path / "parent", "llama")
    cut = parent.cut(refit="bias")
    means = {index: parent.statistics[f"layers.{index}.mlp.sum"] / TOKENS.numel() for index in range(3)}
    folder = parent.saved(tmp_path / "shrunk", cut)
    torch.testing.assert_close(stock_logits(folder), parent.masked_logits(cut, means), rtol=0, atol=1e-4)


def residual(model: torch.nn.Module, spec) -> Tensor:
    """The last hidden states before the final norm, from the last layer's own output."""
    caught = []
    handle = model.get_submodule(spec.layers)[-1].register_forward_hook(lambda _, inputs, output: caught.append(output))
    with torch.inference_mode():
        model(TOKENS)
    handle.remove()
    return caught[0]


def test_refit_with_nothing_cut_is_the_parent(parent: Parent, tmp_path: Path):
    refitted = parent.refitted(tmp_path / "refitted", parent.cut(removed_share=None, threshold=-1.0))
    torch.testing.assert_close(residual(refitted, parent.spec), residual(parent.model, parent.spec), rtol=0, atol=2e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_refit_is_stored_in_the_parents_dtype(tmp_path: Path, dtype: torch.dtype):
    parent = Parent(tmp_path / "parent", "llama", dtype=dtype)
    refitted = parent.refitted(tmp_path / "refitted", parent.cut())
    assert StoredWeights(tmp_path / "refitted").dtype == dtype
    bare = checkpoint.load_model(parent.saved(tmp_path / "bare", parent.cut()), torch.float32)
    expected = residual(parent.model, parent.spec)
    errors = [float((residual(model, parent.spec) - expected).square().mean()) for model in (bare, refitted)]
    assert errors[1] < 0.6 * errors[0]


def test_the_map_names_every_unit_of_the_parent(parent: Parent):
    cut = parent.cut(allocation="adaptive", criterion="flap", layers=1)
    maps = index_maps.index_maps(cut)
    assert {name: len(columns["kept"]) for name, columns in maps.items()} == {
        "pruned_neurons": 3 * 77,
        "pruned_layers": 3,
    }
    kept = torch.from_numpy(maps["pruned_neurons"]["kept"]).view(3, 77)
    for index in range(3):
        staying = [layer.neurons.tolist() for layer in cut.layers if layer.index == index]
        assert kept[index].nonzero().flatten().tolist() == (staying[0] if staying else [])
    for layer in cut.layers:
        scores = cut.neurons.scores[layer.index]
        assert not kept[layer.index].all()
        assert scores[~kept[layer.index]].max() <= scores[layer.neurons].min()
    assert allocation.threshold_for_budget(cut.neurons.mean_abs, 0) < 0


def test_fused_projections_are_cut_in_every_block():
    """[gate | up] and [query | key | value] rows, two groups of two query heads, head_dim 2."""
    spec, attention = spec_for("phi3"), slicing.AttentionShape(num_groups=2, heads_per_group=2, head_dim=2)
    tensors = {
        "mlp.gate_up_proj.weight": torch.arange(6.0)[:, None],
        "mlp.down_proj.weight": torch.arange(3.0)[None],
        "self_attn.qkv_proj.weight": torch.arange(16.0)[:, None],
        "self_attn.o_proj.weight": torch.arange(8.0)[None],
    }
    cut = slicing.LayerCut(0, torch.tensor([0, 2]), torch.tensor([1]))
    sliced = {name: tensor.flatten().tolist() for name, tensor in slicing.slice_layer(tensors, spec, cut, attention).items()}
    assert sliced == {
        "mlp.gate_up_proj.weight": [0, 2, 3, 5],
        "mlp.down_proj.weight": [0, 2],
        "self_attn.qkv_proj.weight": [4, 5, 6, 7, 10, 11, 14, 15],
        "self_attn.o_proj.weight": [4, 5, 6, 7],
    }


def test_the_highest_layer_of_each_kind_stays():
    scores, attends = torch.tensor([0.5, 0.1, 0.2, 0.3, 0.4]), [False, True, True, False, False]
    assert layers.kept(scores, 2, attends) == [0, 2, 4]  # 1 and 3 went: 2 is lower than 3, but the best that attends
    assert layers.kept(scores, 3, attends) == [0, 2]
    assert layers.kept(scores, 3, [True] * 5) == [0, 4]
    with pytest.raises(UserError, match="5 layers of 2 kinds, and one of each must stay"):
        layers.kept(scores, 4, attends)
