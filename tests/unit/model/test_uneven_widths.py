import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minigpts.errors import UserError
from minigpts.model import checkpoint, uneven_widths
from minigpts.model.families import SPECS, spec_for
from minigpts.model.weights import StoredWeights
from tests import tiny

WIDTHS = [77, 31, 52]
VOCAB = 97
VARIANTS = {**tiny.LAYOUTS, "internlm3": tiny.VARIANTS["internlm3"]}  # whose config is not its stock class's own


def random_weights(config):
    torch.manual_seed(0)
    shapes = checkpoint.stored_shapes(config)
    return {name: torch.randn(shape) * 0.15 + (0.5 if len(shape) == 1 else 0.0) for name, shape in shapes.items()}


def write(directory, config, weights):
    config.dtype = torch.float32
    with checkpoint.saving(directory, config, weights.items(), companions=directory.parent):
        pass
    return directory


TABLES_IN_DTYPE = {"gptj", "codegen"}  # their classes make rotary tables in the dtype asked for, from_pretrained in fp32


def uneven(variant):
    family, changes = VARIANTS[variant]
    return tiny.config(family, VOCAB, intermediate_sizes=WIDTHS, **changes)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint with uneven widths of every variant of every family. All folders have the same name, so that their
    modelling files, of which each family's is another, meet in transformers' cache of modules."""
    root = tmp_path_factory.mktemp("uneven")
    configs = {variant: uneven(variant) for variant in VARIANTS}
    return {variant: write(root / variant / "model", config, random_weights(config)) for variant, config in configs.items()}


@pytest.fixture(scope="module")
def elsewhere(folders, tmp_path_factory):
    """What load_shipped finds out about the folders, in one clean process that can't import this project."""
    out = tmp_path_factory.mktemp("elsewhere")
    script = Path(__file__).with_name("load_shipped.py")
    settings = {"HF_HOME": str(out / "hf"), "HF_MODULES_CACHE": str(out / "modules"), "HF_HUB_OFFLINE": "1"}
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # as here: sums in another order are not equal to the bit
    command = [sys.executable, "-I", script, out, *folders.values()]
    subprocess.run(command, env={**os.environ, **settings, **threads}, check=True)
    return json.loads((out / "facts.json").read_text()), load_file(out / "tensors.safetensors"), out


@pytest.mark.parametrize("variant", VARIANTS)
def test_loads_without_this_project_equal_to_the_bit(variant, folders, elsewhere):
    facts, tensors, _ = elsewhere
    for dtype, key in ((torch.float32, "logits"), (torch.bfloat16, "logits in bfloat16")):
        if dtype == torch.bfloat16 and VARIANTS[variant][0] in TABLES_IN_DTYPE:
            continue
        with torch.no_grad():
            logits = checkpoint.load_model(folders[variant], dtype)(tensors["ids"]).logits
        assert torch.equal(logits, tensors[f"{variant}.{key}"])
    assert facts[variant]["class"] == checkpoint.load_config(folders[variant]).architectures[0]
    assert not any(facts[variant]["loading"].values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_bare_decoder_gives_the_hidden_states(variant, elsewhere):
    """What vLLM builds its own head on; `AutoModel` without a class of ours builds layers of one width."""
    _, tensors, _ = elsewhere
    assert torch.equal(tensors[f"{variant}.hidden of AutoModel"], tensors[f"{variant}.hidden"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_generates_the_same_with_and_without_cache(variant, folders, elsewhere):
    _, tensors, _ = elsewhere
    model = checkpoint.load_model(folders[variant], torch.float32)
    ours = model.generate(tensors["ids"], max_new_tokens=3, min_new_tokens=3, do_sample=False)
    for key in ("with cache", "without cache"):
        assert torch.equal(ours, tensors[f"{variant}.generated {key}"])
    torch.testing.assert_close(tensors[f"{variant}.logits with cache"], tensors[f"{variant}.logits without cache"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_survives_save_pretrained(variant, folders, elsewhere):
    _, tensors, out = elsewhere
    assert torch.equal(tensors[f"{variant}.logits saved again"], tensors[f"{variant}.logits"])
    again = out / variant / "model"
    assert (again / uneven_widths.FILE).read_bytes() == (folders[variant] / uneven_widths.FILE).read_bytes()
    saved, written = (json.loads((folder / "config.json").read_text()) for folder in (again, folders[variant]))
    assert saved == {field: written.get(field) for field in saved}  # but for what transformers 4 reads
    with torch.no_grad():
        assert torch.equal(checkpoint.load_model(again, torch.float32)(tensors["ids"]).logits, tensors[f"{variant}.logits"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_stock_class_refuses(variant, elsewhere):
    facts, _, _ = elsewhere
    assert "mismatched_sizes" in facts[variant]["refusal"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_trains_and_initializes_as_the_stock_class(variant, elsewhere):
    facts, _, _ = elsewhere
    before, after, unreached = facts[variant]["training"]
    assert after < before
    assert not unreached
    assert facts[variant]["initial_std"] < 0.03  # the families' 0.02; torch's own for these shapes is 0.09


def widened(name, tensor, shape, spec):
    """``tensor`` with zeros for the neurons that ``shape`` has beyond it; a fused layer lacks them in each of its blocks."""
    wider = torch.zeros(shape)
    blocks = spec.mlp_in_blocks if any(f".{module}." in name for module in spec.mlp_in) else 1
    axis = next((axis for axis in range(len(shape)) if tensor.shape[axis] != shape[axis]), 0)
    for part, place in zip(tensor.chunk(blocks, axis), wider.chunk(blocks, axis), strict=True):
        place.narrow(axis, 0, part.shape[axis]).copy_(part)
    return wider


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_a_stock_model_with_silent_neurons(variant, folders, elsewhere, tmp_path):
    _, tensors, _ = elsewhere
    family, changes = VARIANTS[variant]
    config, stored = tiny.config(family, VOCAB, **changes), StoredWeights(folders[variant])
    config.dtype = torch.float32
    shapes = checkpoint.stored_shapes(config)
    wide = {name: widened(name, tensor, shapes[name], spec_for(family)) for name, tensor in stored.items()}
    folder = write(tmp_path / "wide", config, wide)
    assert not (folder / uneven_widths.FILE).exists()
    with torch.no_grad():
        logits = checkpoint.load_model(folder, torch.float32)(tensors["ids"]).logits
    torch.testing.assert_close(logits, tensors[f"{variant}.logits"])


def test_widths_that_are_even_again_take_the_pointer_away(folders, tmp_path):
    config = checkpoint.load_config(folders["llama"])
    assert "auto_map" in json.loads((folders["llama"] / "config.json").read_text())
    del config.intermediate_sizes
    folder = write(tmp_path / "even", config, random_weights(config))
    stored = json.loads((folder / "config.json").read_text())
    assert stored["architectures"] == ["LlamaForCausalLM"]
    assert "auto_map" not in stored
    assert not (folder / uneven_widths.FILE).exists()


@pytest.mark.parametrize("widths", [[77, 31], [77, 31, 52, 77], [77, 31, 0], [77, 31, "52"], 77])
def test_widths_that_fit_no_model_are_refused(widths):
    with pytest.raises(UserError, match=r"^config.json: intermediate_sizes must list 3 widths, one for each layer, got"):
        checkpoint.stored_shapes(tiny.config("llama", VOCAB, intermediate_sizes=widths, dtype=torch.float32))


def test_the_file_of_every_family_is_formatted(tmp_path):
    for family, spec in SPECS.items():
        (tmp_path / f"{family}.py").write_text(uneven_widths.source(spec))
    settings = ["--config", Path(__file__).parents[3] / "pyproject.toml", tmp_path]
    for check in (["format", "--diff"], ["check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *check, *settings], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
