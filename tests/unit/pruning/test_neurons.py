"""The cut is physical and exact: the shrunk model's logits are the full model's with the same neurons masked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from minigpts import checkpoint
from minigpts.architectures.registry import spec_for
from minigpts.errors import UserError
from minigpts.profiling.recorder import profile
from minigpts.pruning import linear, neurons, plan, refit, slicing
from tests import tiny

TOKENS = torch.randint(0, 300, (6, 40), generator=torch.Generator().manual_seed(1))


class Parent:
    """A tiny model with its statistics."""

    def __init__(self, directory: Path, family: str, **changes: object) -> None:
        self.directory = tiny.write_checkpoint(directory, family, **changes)
        self.config = checkpoint.load_config(self.directory)
        self.spec = spec_for(family)
        self.weights = checkpoint.read_weights(self.directory)
        self.model = checkpoint.load_model(self.directory, torch.float32)
        self.statistics = profile(self.model, self.spec, TOKENS, 2, all_linear=True)
        self.evidence = neurons.evidence(self.weights, self.spec, self.statistics, 3, seed=0)

    def cut(self, **changes: object) -> neurons.NeuronCut:
        settings = dict(criterion="wanda", threshold=0.0, allocation="uniform", multiple_of=1, budget=90)
        return neurons.plan_cut(self.evidence, **{**settings, **changes})

    def saved(self, folder: Path, weights: dict[str, torch.Tensor], cut: neurons.NeuronCut) -> Path:
        neurons.set_widths(self.config, self.spec, [len(keep) for keep in cut.kept])
        with checkpoint.saving(folder, self.config, weights, companions=self.directory):
            pass
        return folder

    def masked_logits(self, cut: neurons.NeuronCut) -> torch.Tensor:
        """The whole model's logits with the activations of what goes set to zero."""
        handles = []
        for index, keep in enumerate(cut.kept):
            module = self.model.get_submodule(self.spec.layer(index, self.spec.mlp_out))
            mask = torch.zeros(module.in_features)
            mask[keep] = 1
            handles.append(module.register_forward_pre_hook(lambda _, inputs, mask=mask: (inputs[0] * mask,)))
        with torch.inference_mode():
            logits = self.model(TOKENS).logits
        for handle in handles:
            handle.remove()
        return logits


@pytest.fixture(
    params=[("llama", {}), ("llama", {"tie_word_embeddings": False, "mlp_bias": True, "attention_bias": True}), ("opt", {})]
)
def parent(request: pytest.FixtureRequest, tmp_path: Path) -> Parent:
    family, changes = request.param
    return Parent(tmp_path / "parent", family, **changes)


@pytest.mark.parametrize("allocation", ["per_layer", "uniform", "adaptive"])
def test_shrunk_equals_masked(parent: Parent, tmp_path: Path, allocation: str):
    cut = parent.cut(allocation=allocation, criterion="l1" if allocation == "per_layer" else "wanda")
    weights = slicing.slice_neurons(parent.weights, parent.spec, cut.kept)
    folder = parent.saved(tmp_path / "shrunk", weights, cut)
    shrunk = checkpoint.load_model(folder, torch.float32)
    with torch.inference_mode():
        torch.testing.assert_close(shrunk(TOKENS).logits, parent.masked_logits(cut), rtol=0, atol=1e-4)
    widths = [shrunk.get_submodule(parent.spec.layer(index, parent.spec.mlp_out)).in_features for index in range(3)]
    assert widths == [len(keep) for keep in cut.kept]
    assert sum(widths) == 3 * 77 - 90
    assert sum(tensor.numel() for tensor in weights.values()) == sum(parameter.numel() for parameter in shrunk.parameters())


def test_uniform_widths_load_with_the_stock_class_to_the_bit(parent: Parent, tmp_path: Path):
    cut = parent.cut()
    folder = parent.saved(tmp_path / "shrunk", slicing.slice_neurons(parent.weights, parent.spec, cut.kept), cut)
    with torch.inference_mode():
        ours, stock = (
            model(TOKENS).logits
            for model in (checkpoint.load_model(folder, torch.float32), AutoModelForCausalLM.from_pretrained(folder))
        )
    assert torch.equal(ours, stock)


def test_uneven_widths_can_be_cut_again(parent: Parent, tmp_path: Path):
    cut = parent.cut(allocation="adaptive")
    folder = parent.saved(tmp_path / "shrunk", slicing.slice_neurons(parent.weights, parent.spec, cut.kept), cut)
    shutil.copytree(folder, tmp_path / "again")
    again = checkpoint.load_model(tmp_path / "again", torch.float32)
    statistics = profile(again, parent.spec, TOKENS, 3)
    for index, keep in enumerate(cut.kept):
        assert len(statistics[f"layers.{index}.mlp.abs_sum"]) == len(keep)


def test_the_papers_rule_takes_the_very_neurons_at_or_below_epsilon(parent: Parent):
    means = torch.stack([parent.statistics[f"layers.{index}.mlp.abs_sum"] for index in range(3)]) / TOKENS.numel()
    threshold = float(means.flatten().sort().values[70])
    cut = parent.cut(criterion="l1", allocation="per_layer", threshold=threshold, budget=None)
    for index, keep in enumerate(cut.kept):
        assert keep.tolist() == (means[index] > threshold).nonzero().flatten().tolist()
    assert cut.num_below_threshold == 71


def test_target_removes_at_least_its_share_and_less_than_a_neuron_more(parent: Parent):
    budget = neurons.budget_for(0.2, parent.weights, parent.spec, 3)
    total = sum(tensor.numel() for tensor in parent.weights.values())
    cut = parent.cut(budget=budget, allocation="adaptive")
    left = sum(tensor.numel() for tensor in slicing.slice_neurons(parent.weights, parent.spec, cut.kept).values())
    assert 0.2 <= 1 - left / total < 0.2 + 200 / total
    with pytest.raises(UserError, match="more than the MLPs hold"):
        neurons.budget_for(0.9, parent.weights, parent.spec, 3)


def test_statistics_of_another_model_are_refused(parent: Parent):
    with pytest.raises(UserError, match="don't fit layer 0"):
        neurons.evidence(parent.weights, parent.spec, {"count": torch.tensor(1)}, 3, seed=0)


def test_linear_rule_zeroes_what_it_cannot_remove(tmp_path: Path):
    parent = Parent(tmp_path / "parent", "llama", mlp_bias=True, attention_bias=True)
    threshold = float((parent.statistics["linear.model.layers.1.mlp.up_proj.output_minus_bias_abs_sum"] / TOKENS.numel()).median())
    marked = linear.marks(parent.statistics, threshold)
    whole = linear.zeroed(parent.weights, marked)
    for name, mark in marked.items():
        sums = {
            key: parent.statistics[f"linear.{name}.{key}_abs_sum"] / TOKENS.numel()
            for key in ("input", "output", "output_minus_bias")
        }
        for row in range(len(mark.rows)):
            if sums["output_minus_bias"][row] <= threshold:
                assert not whole[f"{name}.weight"][row].any()
                goes = sums["output"][row] <= threshold  # a bias goes only if the biased output is small too
                assert torch.equal(whole[f"{name}.bias"][row], torch.tensor(0.0) if goes else parent.weights[f"{name}.bias"][row])
        for column in (sums["input"] <= threshold).nonzero().flatten():
            assert not whole[f"{name}.weight"][:, column].any()
        untouched = ~(mark.rows[:, None] | mark.columns[None, :])
        assert torch.equal(whole[f"{name}.weight"][untouched], parent.weights[f"{name}.weight"][untouched])


@pytest.mark.parametrize(("family", "changes"), [("llama", {}), ("llama", {"mlp_bias": True}), ("opt", {})])
def test_neurons_the_linear_rule_removes_were_silent(tmp_path: Path, family: str, changes: dict):
    """Removing them from the zeroed model changes no logit."""
    parent = Parent(tmp_path / "parent", family, **changes)
    means = torch.cat([parent.statistics[f"layers.{index}.mlp.abs_sum"] for index in range(3)]) / TOKENS.numel()
    marked = linear.marks(parent.statistics, float(means.sort().values[100]))
    silenced = [linear.removable_neurons(marked, parent.weights, parent.spec, index) for index in range(3)]
    assert 0 < sum(int(mask.sum()) for mask in silenced) < 3 * 77
    cut = parent.cut(criterion="l1", allocation="per_layer", threshold=-1.0, budget=None, silenced=silenced)
    whole = linear.zeroed(parent.weights, marked)
    with checkpoint.saving(tmp_path / "zeroed", parent.config, whole, companions=parent.directory):
        pass
    zeroed = checkpoint.load_model(tmp_path / "zeroed", torch.float32)
    shrunk = checkpoint.load_model(
        parent.saved(tmp_path / "shrunk", slicing.slice_neurons(whole, parent.spec, cut.kept), cut), torch.float32
    )
    with torch.inference_mode():
        torch.testing.assert_close(shrunk(TOKENS).logits, zeroed(TOKENS).logits, rtol=0, atol=1e-4)


def test_folded_means_are_the_model_with_neurons_held_at_their_mean(tmp_path: Path):
    parent = Parent(tmp_path / "parent", "llama")
    cut = parent.cut()
    whole = neurons.with_mlp_biases(parent.weights, parent.config, parent.spec)
    handles = []
    for index, keep in enumerate(cut.kept):
        name = parent.spec.layer(index, parent.spec.mlp_out)
        mean = parent.statistics[f"layers.{index}.mlp.sum"] / TOKENS.numel()
        whole[f"{name}.bias"] = refit.fold_means(whole[f"{name}.weight"], whole[f"{name}.bias"], mean, keep)
        stay = torch.isin(torch.arange(77), keep)
        hook = lambda _, inputs, stay=stay, mean=mean: (torch.where(stay, inputs[0], mean.float()),)  # noqa: E731
        handles.append(parent.model.get_submodule(name).register_forward_pre_hook(hook))
    with torch.inference_mode():
        expected = parent.model(TOKENS).logits
    folder = parent.saved(tmp_path / "shrunk", slicing.slice_neurons(whole, parent.spec, cut.kept), cut)
    with torch.inference_mode():
        torch.testing.assert_close(AutoModelForCausalLM.from_pretrained(folder)(TOKENS).logits, expected, rtol=0, atol=1e-4)


def residual(model, spec, tokens):
    """The last hidden states before the final norm, from the last layer's own output."""
    caught = []
    handle = model.get_submodule(spec.layers)[-1].register_forward_hook(lambda _, inputs, output: caught.append(output))
    with torch.inference_mode():
        model(tokens)
    handle.remove()
    return caught[0]


def test_refit_with_nothing_cut_is_the_parent(parent: Parent):
    expected = residual(parent.model, parent.spec, TOKENS)
    refit.least_squares(parent.model, parent.spec, [torch.arange(77)] * 3, TOKENS, 4)
    torch.testing.assert_close(residual(parent.model, parent.spec, TOKENS), expected, rtol=0, atol=2e-4)


def test_refit_gives_its_budget_to_the_calibration_text(parent: Parent):
    """Refitted, the residual stream is nearer to the parent's than after the bare cut, and batches don't matter."""
    expected = residual(parent.model, parent.spec, TOKENS)
    cut = parent.cut()
    errors = []
    for rows in (None, 1, 6):
        model = checkpoint.load_model(parent.directory, torch.float32)
        if rows is None:
            for index, keep in enumerate(cut.kept):
                refit.cut_layer(model, parent.spec, index, keep)
        else:
            refit.least_squares(model, parent.spec, cut.kept, TOKENS, rows)
        errors.append(float((residual(model, parent.spec, TOKENS) - expected).square().mean()))
    bare, one_by_one, all_at_once = errors
    assert one_by_one < 0.5 * bare
    assert all_at_once == pytest.approx(one_by_one, rel=1e-3)


def test_solve_finds_a_planted_projection():
    generator = torch.Generator().manual_seed(0)
    activations = torch.randn(200, 9, dtype=torch.float64, generator=generator)
    planted = torch.randn(5, 9, dtype=torch.float64, generator=generator)
    gram, cross = activations.T @ activations, (activations @ planted.T).T @ activations
    torch.testing.assert_close(refit.solve(gram, cross, torch.zeros(5, 9, dtype=torch.float64), ridge=1e-12), planted)


def test_a_budget_of_all_allocations_keeps_scores_and_means_for_the_map(parent: Parent):
    cut = parent.cut(allocation="adaptive", criterion="flap")
    assert [len(score) for score in cut.scores] == [77] * 3 == [len(mean) for mean in cut.mean_abs]
    worst_kept = [cut.scores[index][keep].min() for index, keep in enumerate(cut.kept)]
    gone = [cut.scores[index][~torch.isin(torch.arange(77), keep)] for index, keep in enumerate(cut.kept)]
    assert all(not len(scores) or scores.max() <= kept for scores, kept in zip(gone, worst_kept, strict=True))
    assert plan.threshold_for_budget(cut.mean_abs, 0) < 0
