"""The stages on a tiny child: the folder that people run, what is scored of it, and what goes wrong, in one line."""

from pathlib import Path

import pytest
import torch
import yaml

from benchmarks.llamacpp.run import LlamaCpp
from minigpts import artifacts
from minigpts.errors import UserError
from minigpts.exporting import chat_template, onnx_files
from minigpts.exporting.modelfile import modelfile
from minigpts.gguf_layout import read_back
from minigpts.model import checkpoint
from minigpts.model.weights import StoredWeights
from minigpts.quantization import layerwise
from minigpts.quantization.groups import GROUPS, group_of
from stages import evaluate, evaluate_exported, export
from tests import tiny
from tests.unit.exporting import eight_bits

ROOT_PARAMS = yaml.safe_load((Path(__file__).parents[3] / "params.yaml").read_text(encoding="utf-8"))
SIZES = {"hidden_size": 64, "intermediate_size": 77, "head_dim": 16}  # rows of 64 hold blocks of 32, rows of 77 don't


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    tiny.write_checkpoint(folder / "base", **SIZES)
    tiny.write_checkpoint(folder / "child", seed=1, **{**SIZES, "num_hidden_layers": 2})
    artifacts.write_table(folder / "test.parquet", {"text": tiny.sentences(12)})
    artifacts.write_table(folder / "validation.parquet", {"text": tiny.sentences(7, seed=3)})
    questions = [
        {"question": text, "choices": ["heart", "lung"], "answer": row % 2, "split": ("test", "validation")[row % 2]}
        for row, text in enumerate(tiny.sentences(8, seed=5))
    ]
    artifacts.write_jsonl(folder / "mcq.jsonl", questions)
    for name, model in (("base", "base"), ("finetuned", "child")):
        evaluate.main(scoring(folder, model, name))
    artifacts.write_json(folder / "tuned_parent.json", {})
    artifacts.write_json(folder / "plan.json", {"plan": None})
    artifacts.write_json(folder / "dataset.json", {"sources": {"us": {"name": "Our notes", "version": "3", "licence": "ours"}}})
    return folder


def write_params(folder, **changes):
    sections = {
        "model": {**ROOT_PARAMS["model"], "member": "x/Tiny-7M.Q4_1.gguf"},
        "dataset": {**ROOT_PARAMS["dataset"], "source": "notes/My Notes.jsonl"},
        "precision": {**dict.fromkeys(GROUPS, "Q8_0"), **{name: changes[name] for name in changes if name in GROUPS}},
        "finetune": {**ROOT_PARAMS["finetune"], "sequence_length": 64},
        "export": {"tokens": 512, "scale_tokens": changes.get("scale_tokens", 0), "formats": changes.get("formats", ["gguf"])},
        "evaluate": {"sequence_length": 64, "chat": False},
        "speech": {"tokens": 6},
        "runtime": {"batch_tokens": 400, "num_threads": None, "launcher": None},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(sections))
    return folder / "params.yaml"


def scoring(folder, model, name):
    paths = {
        **{"model": folder / model, "base": folder / "base", "validation": folder / "validation.parquet"},
        **{"test": folder / "test.parquet", "questions": folder / "mcq.jsonl", "metrics": folder / f"{name}.json"},
        "replies": folder / f"{name}_replies.json",
        "params": write_params(folder),
    }
    return [part for flag, path in paths.items() for part in (f"--{flag}", str(path))]


def run(folder, out, **changes):
    names = {"parent": "base.json", "child": "finetuned.json", "tuned-parent": "tuned_parent.json", "dataset": "dataset.json"}
    paths = {flag: folder / name for flag, name in names.items()} | {"model": folder / "child", "out": folder / out}
    paths |= {"text": folder / "test.parquet", "train": folder / "validation.parquet", "plan": folder / "plan.json"}
    paths |= {"metrics": folder / f"{out}.json", "params": write_params(folder, **changes)}
    export.main([part for flag, path in paths.items() for part in (f"--{flag}", str(path))])
    return artifacts.read_json(folder / f"{out}.json")


def test_the_folder_runs_in_llama_cpp_and_says_what_it_is(inputs, capsys):
    metrics = run(inputs, "exported", embedding="Q5_1")
    path = inputs / "exported" / metrics["file"]
    assert metrics["file"] == "tiny-7m-my-notes.gguf"
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["Modelfile", "README.md", "tiny-7m-my-notes.gguf"]
    assert metrics["megabytes"] == pytest.approx(path.stat().st_size / 1e6)
    assert sum(metrics["bytes_by_group"].values()) == path.stat().st_size
    assert metrics["formats"] == {
        "embedding": {"Q5_1": 1},
        "query_key": {"Q8_0": 4},
        "value_output": {"Q8_0": 4},
        "mlp_in": {"Q8_0": 4},
        "mlp_out": {"F16": 2},
    }
    assert metrics["fallbacks"] == {"mlp_out: F16 for Q8_0, whose blocks don't divide rows of 77": 2}
    with LlamaCpp(path) as model:
        ids = model.tokenize("Heart 5: an abnormality", whole=True)
        assert ids == checkpoint.load_fast_tokenizer(inputs / "child").encode("Heart 5: an abnormality").ids
        assert model.distributions(ids).max() < 0
    card = (path.parent / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "Our notes, 3 (licence: ours)." in card
    assert "| bits per byte, test text | " in card
    assert "ollama create tiny-7m-my-notes" in card
    assert f"{path}: 0.1 MB" in capsys.readouterr().out


def test_a_plans_formats_replace_the_sections(inputs):
    removed = {"num_removed_layers": 0, "num_removed_key_value_heads": 0, "num_removed_experts": 0}
    sizes = {
        "widths": [77, 77],
        "num_counted_tokens": 1,
        "vocab_size": 1,
        "num_parameters": 1,
        "checkpoint_bytes": 1,
        "file_bytes": 1,
    }
    formats = {**dict.fromkeys(GROUPS, "F16"), "mlp_in": "IQ4_NL"}
    artifacts.write_json(inputs / "plan.json", {"plan": {**removed, **sizes, "formats": formats}})
    try:
        metrics = run(inputs, "planned")
    finally:
        artifacts.write_json(inputs / "plan.json", {"plan": None})
    assert metrics["formats"]["mlp_in"] == {"IQ4_NL": 4} and metrics["formats"]["query_key"] == {"F16": 4}


def test_equal_runs_write_equal_bytes(inputs):
    for out in ("one", "two"):
        run(inputs, out, scale_tokens=256)
    for path in (inputs / "one").iterdir():
        assert path.read_bytes() == (inputs / "two" / path.name).read_bytes()


@pytest.mark.parametrize(("block_format", "tolerance"), [("F32", 1e-6), ("Q8_0", 0.02)])
def test_the_file_is_scored_as_its_checkpoint(inputs, block_format, tolerance):
    metrics = run(inputs, "scored", **dict.fromkeys(GROUPS, block_format))
    flags = [*scoring(inputs, "child", "scored_metrics"), "--exported", str(inputs / "scored")]
    evaluate_exported.main(flags)
    found, of_checkpoint = (artifacts.read_json(inputs / f"{name}.json") for name in ("scored_metrics", "finetuned"))
    assert found.keys() == of_checkpoint.keys()
    assert found["bits_per_byte"] == pytest.approx(of_checkpoint["bits_per_byte"], rel=tolerance)
    assert found["checkpoint_bytes"] == (inputs / "scored" / metrics["file"]).stat().st_size
    said, by_checkpoint = (artifacts.read_json(inputs / f"{name}_replies.json") for name in ("scored_metrics", "finetuned"))
    assert len(said["general"]) == 30 and len(said["instructions"]) >= 30
    assert (said == by_checkpoint) is (block_format == "F32")
    if block_format == "Q8_0":
        assert found["bits_per_byte"] != of_checkpoint["bits_per_byte"]


def test_what_onnx_lacks_is_refused_before_anything_is_rounded(inputs, monkeypatch):
    monkeypatch.setattr(onnx_files, "PACKAGES", ("no_such_package",))
    monkeypatch.setattr(layerwise, "rounded_checkpoint", None)
    with pytest.raises(UserError, match=r"onnx needs onnxruntime-genai; pip install -e '.\[onnx\]'"):
        run(inputs, "without", formats=["gguf", "onnx"])
    assert not (inputs / "without").exists()


@pytest.mark.skipif(eight_bits.MISSING, reason=eight_bits.REASON)
def test_onnx_lies_beside_the_file(inputs):
    alone = run(inputs, "gguf_alone")
    metrics = run(inputs, "with_onnx", formats=["gguf", "onnx"])
    folder = inputs / "with_onnx"
    of_onnx = sum(path.stat().st_size for path in (folder / "onnx").iterdir())
    assert metrics == {**alone, "onnx_megabytes": pytest.approx(of_onnx / 1e6)}
    assert (folder / metrics["file"]).read_bytes() == (inputs / "gguf_alone" / metrics["file"]).read_bytes()
    assert (folder / onnx_files.FILE).exists() and (folder / "genai_config.json").exists()
    assert not [path.name for path in folder.iterdir() if path.name.startswith("tmp")]
    card, plain = ((inputs / name / "README.md").read_text() for name in ("with_onnx", "gguf_alone"))
    assert 'pipeline("text-generation", "OWNER/tiny-7m-my-notes")' in card and "transformers.js, pruned]" in card
    assert "onnx" not in plain.lower()


def test_no_formats_no_file_and_no_metrics(inputs):
    assert run(inputs, "none", formats=[]) == {}
    evaluate_exported.main([*scoring(inputs, "child", "none_scored"), "--exported", str(inputs / "none")])
    assert artifacts.read_json(inputs / "none_scored.json") == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mlp_in": "Q9_9"}, "params.yaml: precision.mlp_in must be one of F32, .*, got 'Q9_9'"),
        ({"formats": ["tflite"]}, "export.formats must be one of gguf, onnx, got 'tflite'"),
        ({"formats": ["onnx"]}, r"export.formats must be \[\], \[gguf\] or \[gguf, onnx\], got \['onnx'\]"),
    ],
)
def test_bad_settings_are_one_line_and_lose_nothing(inputs, changes, message):
    run(inputs, "kept")
    before = {path.name: path.read_bytes() for path in (inputs / "kept").iterdir()}
    with pytest.raises(UserError, match=message):
        run(inputs, "kept", **changes)
    assert {path.name: path.read_bytes() for path in (inputs / "kept").iterdir()} == before


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "holds 0 GGUF files, expected one"),
        (("a.gguf", "b.gguf"), "holds 2 GGUF files, expected one"),
        ((checkpoint.SKIPPED,), "no file was exported; set export.formats"),
    ],
)
def test_a_folder_without_the_one_file_is_one_line(inputs, tmp_path, files, message):
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=message):
        read_back.load_model(tmp_path, inputs / "child", torch.float32)
    if checkpoint.SKIPPED not in files:
        with pytest.raises(UserError, match=message):
            evaluate_exported.main([*scoring(inputs, "child", "missing"), "--exported", str(tmp_path)])


FUSED = ("phi3", "gpt2", "gpt_bigcode", "gpt_neox", "persimmon", "codegen")  # queries, keys and values in one


@pytest.mark.parametrize("family", [family for family in tiny.FAMILIES if family != "opt"])
def test_every_weight_of_a_layer_is_in_a_group(tmp_path, family):
    model = tiny.write_checkpoint(tmp_path / "checkpoint", family, tie_word_embeddings=False)
    shapes = StoredWeights(model).shapes
    left_out = {name for name, shape in shapes.items() if group_of(family, name, shape) is None and len(shape) == 2}
    assert left_out == ({"transformer.wpe.weight"} if family in ("gpt2", "gpt_bigcode") else set())
    found = {group_of(family, name, shape) for name, shape in shapes.items()} - {None}
    assert found == set(GROUPS) - ({"query_key"} if family in FUSED else set())
    heads = [name for name, shape in shapes.items() if group_of(family, name, shape) == "embedding"]
    assert len(heads) == 2


def as_ollama(template, chat):
    """What Ollama makes of a template of ours: Go's language as far as they use it."""
    text, body = "", template.removeprefix("{{ range $i, $_ := .Messages }}").removesuffix("{{ end }}")
    for index, message in enumerate(chat):
        part = body.partition(f'{{{{ if eq .Role "{message["role"]}" }}}}')[2]
        if message["role"] == "user":
            first, _, part = part.removeprefix("{{ if eq $i 0 }}").partition("{{ end }}")
            text += first if index == 0 else ""
        text += part.partition("{{ end }}")[0].replace("{{ .Content }}", message["content"])
    return text


CHATML = (
    "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "<|im_start|>system\nBe kind<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('none') }}{% endif %}{% for m in messages %}"
    "<|im_start|>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)


@pytest.mark.parametrize(("template", "system"), [(CHATML, True), (NO_SYSTEM, False)], ids=["default system", "no system"])
def test_ollamas_template_writes_what_the_checkpoints_does(tmp_path, template, system):
    model = tiny.write_checkpoint(tmp_path / "checkpoint")
    (model / "chat_template.jinja").write_text(template)
    tokenizer = checkpoint.load_tokenizer(model)
    turns = [{"role": role, "content": f"text {index}"} for index, role in enumerate(["user", "assistant", "user"])]
    chats = [turns[:1], turns, *([[{"role": "system", "content": "Be short"}, *turns]] if system else [])]
    found = chat_template.ollama_template(model)
    for chat in chats:
        assert as_ollama(found, chat) == tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    lines = modelfile(model, "x.gguf", 256)
    assert lines.startswith('FROM ./x.gguf\nTEMPLATE """{{ range')
    assert 'PARAMETER stop "<|im_end|>"' in lines
    assert "PARAMETER num_ctx 256" in lines


def test_a_checkpoint_without_a_template_has_neither(tmp_path):
    model = tiny.write_checkpoint(tmp_path / "checkpoint")
    (model / "chat_template.jinja").unlink()
    assert modelfile(model, "x.gguf", 9999).splitlines() == [
        *("FROM ./x.gguf", "PARAMETER temperature 0.3", "PARAMETER repeat_penalty 1.1", "PARAMETER num_ctx 4096")
    ]
