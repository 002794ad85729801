from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minigpts.errors import UserError
from minigpts.model.weights import TensorWriter, stored_tensors, write_tensors


@pytest.fixture
def source(tmp_path: Path) -> Path:
    tensors = {"a": torch.arange(12.0).view(3, 4).bfloat16(), "b": torch.ones(5, dtype=torch.bfloat16)}
    write_tensors(tmp_path / "source.safetensors", tensors)
    return tmp_path / "source.safetensors"


def copied(source: Path, out: Path) -> dict[str, torch.Tensor]:
    """``b`` and a new ``c`` in any order, ``a`` as the file holds it."""
    entries = stored_tensors(source)
    with out.open("wb") as file:
        writer = TensorWriter(file, {"a": (3, 4), "b": (5,), "c": (2,)}, torch.bfloat16, {"format": "pt"})
        writer.write("c", torch.tensor([7.0, 8.0], dtype=torch.bfloat16))
        writer.write("a", entries["a"])
        assert writer.missing() == ["b"]
        writer.write("b", entries["b"])
    return load_file(out)


def refusing(number: int):
    def copy_file_range(*arguments: int) -> int:
        raise OSError(number, os.strerror(number))

    return copy_file_range


KERNELS = {
    "as it is": None,
    "another file system": refusing(errno.EXDEV),
    "not on this one": refusing(errno.EOPNOTSUPP),
    "gives up at once": lambda *arguments: 0,
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_is_written_and_what_is_copied_come_back_equal(source, tmp_path, monkeypatch, kernel):
    if KERNELS[kernel] is not None:
        monkeypatch.setattr(os, "copy_file_range", KERNELS[kernel], raising=False)
    found, before = copied(source, tmp_path / "out.safetensors"), load_file(source)
    assert found.keys() == {"a", "b", "c"}
    assert torch.equal(found["a"], before["a"]) and torch.equal(found["b"], before["b"])
    assert found["c"].tolist() == [7.0, 8.0]


def test_a_kernel_that_copies_a_part_is_gone_on_for(source, tmp_path, monkeypatch):
    """Three bytes a call, then a refusal: the rest is read and written."""
    calls = []

    def three_bytes(into: int, out: int, count: int, start: int, position: int) -> int:
        calls.append(count)
        if len(calls) > 2:
            raise OSError(errno.EINVAL, "no more")
        return os.pwrite(out, os.pread(into, 3, start), position)

    monkeypatch.setattr(os, "copy_file_range", three_bytes, raising=False)
    assert torch.equal(copied(source, tmp_path / "out.safetensors")["a"], load_file(source)["a"])
    assert calls[:3] == [24, 21, 18]


def test_a_file_cut_short_is_refused(source, tmp_path):
    entries = stored_tensors(source)
    os.truncate(source, source.stat().st_size - 4)
    with pytest.raises(UserError, match=r"source\.safetensors: not a readable safetensors file"):
        stored_tensors(source)
    with (tmp_path / "out").open("wb") as file, pytest.raises(UserError, match="shorter than its header says"):
        TensorWriter(file, {"b": (5,)}, torch.bfloat16, {}).write("b", entries["b"])


def test_what_was_not_announced_is_refused(tmp_path):
    with (tmp_path / "out").open("wb") as file:
        writer = TensorWriter(file, {"a": (2,)}, torch.float32, {})
        for tensor in (torch.ones(3), torch.ones(2, dtype=torch.bfloat16)):
            with pytest.raises(ValueError, match="announced"):
                writer.write("a", tensor)
        with pytest.raises(KeyError):
            writer.write("b", torch.ones(2))
