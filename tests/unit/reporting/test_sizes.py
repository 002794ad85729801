from pathlib import Path

import pytest
import torch

from minigpts.errors import UserError
from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from minigpts.reporting.sizes import PARTS, bytes_by_part, bytes_of_groups
from tests import tiny


def test_llama_parts(tmp_path: Path) -> None:
    directory = tiny.write_checkpoint(tmp_path / "model", dtype=torch.bfloat16)
    vocabulary = checkpoint.load_config(directory).vocab_size
    sizes = bytes_by_part(directory)
    assert tuple(sizes) == PARTS
    assert sizes == {
        "embeddings": 2 * vocabulary * 40,
        "attention": 2 * 3 * (40 * 40 + 2 * 20 * 40 + 40 * 40),
        "MLP": 2 * 3 * 3 * 40 * 77,
        "norms and other": 2 * (2 * 3 + 1) * 40,
    }


def test_an_untied_head_counts_with_the_embeddings(tmp_path: Path) -> None:
    tied = bytes_by_part(tiny.write_checkpoint(tmp_path / "tied"))
    untied = bytes_by_part(tiny.write_checkpoint(tmp_path / "untied", tie_word_embeddings=False))
    assert untied == {**tied, "embeddings": 2 * tied["embeddings"]}


@pytest.mark.parametrize("variant", tiny.VARIANTS)
def test_every_family_is_booked_as_its_modules_say(tmp_path: Path, variant: str) -> None:
    family, changes = tiny.VARIANTS[variant]
    directory = tiny.write_checkpoint(tmp_path / "model", family, **changes)
    model, spec = checkpoint.load_model(directory, torch.float32), spec_for(family)
    layers = model.get_submodule(spec.layers)

    def num_parameters(*names: str) -> int:
        modules = [dict(layer.named_modules()) for layer in layers]
        return sum(p.numel() for layer in modules for name in names if name in layer for p in layer[name].parameters())

    ends = {id(p): p.numel() for name in (spec.embedding, spec.lm_head) for p in model.get_submodule(name).parameters()}
    expected = {
        "embeddings": sum(ends.values()),  # a tied matrix once
        "attention": num_parameters(*spec.mixers),
        "MLP": num_parameters(*spec.mlp_in, spec.mlp_out),
    }
    sizes = bytes_by_part(directory)
    assert {part: sizes[part] // 4 for part in expected} == expected
    assert sum(sizes.values()) == 4 * checkpoint.sizes(directory)["num_parameters"]


def test_a_files_groups_are_booked_as_the_checkpoints_parts() -> None:
    groups = {"embedding": 1, "query_key": 2, "value_output": 4, "mlp_in": 8, "mlp_out": 16, "header": 32, "norms": 64}
    assert bytes_of_groups(groups) == {"embeddings": 1, "attention": 6, "MLP": 24, "norms and other": 96}


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 40])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    directory = tiny.write_checkpoint(tmp_path / "model")
    (directory / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors: not a readable safetensors file"):
        bytes_by_part(directory)
