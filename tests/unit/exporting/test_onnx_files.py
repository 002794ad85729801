"""Every family in onnxruntime itself: the files compute what transformers does on the weights that eight bits hold."""

import json
import os

import numpy as np
import pytest
import torch

from minigpts.errors import UserError
from minigpts.exporting import onnx_files
from minigpts.exporting.onnx_files import FILE
from minigpts.model import checkpoint
from tests import tiny
from tests.unit.exporting import eight_bits
from tests.unit.exporting.eight_bits import SIZES

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
installed = pytest.mark.skipif(eight_bits.MISSING, reason=eight_bits.REASON)
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
VARIANTS = {
    **{family: tiny.VARIANTS[family] for family in onnx_files.ROPE_TYPES},
    "llama untied, biased": tiny.VARIANTS["llama untied, biased"],
    "llama of fewer heads": ("llama", {"num_attention_heads": 2, "num_key_value_heads": 1}),
    "llama 3's rope": (
        "llama",
        {"rope_parameters": {**LLAMA3, "rope_theta": 10000.0, "original_max_position_embeddings": 32}},
    ),
    "mistral, linear rope": ("mistral", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}),
    "phi": ("phi", {"hidden_size": 128, "head_dim": 32, "partial_rotary_factor": 0.5}),
    "phi tied, grouped": (
        "phi",
        {**tiny.VARIANTS["phi tied, grouped"][1], "hidden_size": 128, "head_dim": 32, "partial_rotary_factor": 0.5},
    ),
}


def session(path, exact_activations=True):
    """The file in onnxruntime, on one thread; with ``exact_activations`` they aren't rounded to eight bits in its products."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not exact_activations:
        return onnxruntime.InferenceSession(path, options)
    model = onnx.load(path)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def run(loaded, ids, past=None):
    """Logits (tokens, vocabulary) and the cache behind ``ids``, which stand behind those of ``past``."""
    inputs = {value.name: value for value in loaded.get_inputs()}
    if past is None:
        shapes = {name: value.shape for name, value in inputs.items() if name.startswith("past_key_values.")}
        past = {name: np.zeros((1, heads, 0, size), np.float32) for name, (_, heads, _, size) in shapes.items()}
    before = next(iter(past.values())).shape[2]
    feed = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, before + len(ids)), np.int64), **past}
    if "position_ids" in inputs:
        feed["position_ids"] = np.arange(before, before + len(ids))[None]
    found = dict(zip([value.name for value in loaded.get_outputs()], loaded.run(None, feed), strict=True))
    return found["logits"][0], {name: found[name.replace("past_key_values", "present")] for name in past}


def greedy(loaded, ids, length):
    """The greedy continuation of ``ids`` to ``length`` tokens, one by one with the cache, and all logits on the way."""
    logits, past = run(loaded, ids)
    ids, rows = list(ids), [logits]
    while len(ids) < length:
        ids.append(int(rows[-1][-1].argmax()))
        logits, past = run(loaded, ids[-1:], past)
        rows.append(logits)
    return ids, np.concatenate(rows)


@installed
@pytest.mark.parametrize("variant", VARIANTS)
def test_onnxruntime_computes_what_transformers_does(tmp_path, variant):
    family, changes = VARIANTS[variant]
    directory, folder = eight_bits.write_checkpoint(tmp_path / "checkpoint", family, **changes), tmp_path / "export"
    folder.mkdir()
    config = checkpoint.load_config(directory)
    onnx_files.require_buildable(config)
    onnx_files.write(folder, directory)
    prompt = checkpoint.load_fast_tokenizer(directory).encode(tiny.sentences(1)[0]).ids[:8]
    model = checkpoint.load_model(directory, torch.float32)
    with torch.inference_mode():  # windows are shorter than this text
        expected_ids = model.generate(
            torch.tensor([prompt]), do_sample=False, max_length=40, eos_token_id=config.vocab_size, pad_token_id=0
        )
        expected = model(expected_ids).logits[0].numpy()
    loaded = session(folder / FILE)
    tolerance = 1e-3 if config.model_type == "phi" else 1e-4  # onnxruntime has another approximation of its GELU
    ids, with_cache = greedy(loaded, prompt, 40)
    assert ids == expected_ids[0].tolist()
    np.testing.assert_allclose(with_cache, expected, atol=tolerance)
    np.testing.assert_allclose(run(loaded, ids)[0], expected, atol=tolerance)
    as_it_is = run(session(folder / FILE, exact_activations=False), ids)[0]
    assert np.abs(as_it_is - expected).max() < 0.25 * expected.std()


@installed
def test_onnxruntime_genai_takes_the_folder(tmp_path):
    import onnxruntime_genai

    directory, folder = eight_bits.write_checkpoint(tmp_path / "checkpoint"), tmp_path / "export"
    folder.mkdir()
    megabytes = onnx_files.write(folder, directory)
    assert megabytes == pytest.approx(sum(path.stat().st_size for path in (folder / "onnx").iterdir()) / 1e6)
    model = onnxruntime_genai.Model(str(folder))
    text = tiny.sentences(1)[0]
    ids = onnxruntime_genai.Tokenizer(model).encode(text).tolist()
    assert ids == checkpoint.load_fast_tokenizer(directory).encode(text).ids
    settings = onnxruntime_genai.GeneratorParams(model)
    settings.set_search_options(max_length=len(ids) + 8, min_length=len(ids) + 8, do_sample=False)
    generator = onnxruntime_genai.Generator(model, settings)
    generator.append_tokens(ids)
    while not generator.is_done():
        generator.generate_next_token()
    expected, _ = greedy(session(folder / FILE, exact_activations=False), ids, len(ids) + 8)
    assert generator.get_sequence(0).tolist() == expected
    assert json.loads((folder / "config.json").read_text())["transformers.js_config"]["dtype"] == "q8"


@installed
def test_equal_checkpoints_give_equal_bytes(tmp_path):
    directory = eight_bits.write_checkpoint(tmp_path / "checkpoint", "qwen2")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        onnx_files.write(tmp_path / name, directory)
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert {path.name for path in files} == {
        *("model_quantized.onnx", "model_quantized.onnx_data", "genai_config.json", "config.json", "generation_config.json"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    }
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes(), path


LINEAR = {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}


@installed
@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("gemma3_text", {}, "has no faithful graph for gemma3_text, only for llama, "),
        ("opt", {}, "has no faithful graph for opt"),
        ("llama", {"intermediate_sizes": [40, 77, 33]}, r"one MLP width for all layers \(prune_neurons.allocation: uniform\)"),
        ("llama", LINEAR, "has no faithful rotary scaling 'linear' for llama"),
        ("llama", {"head_dim": 10}, "rotate a multiple of 16 dimensions, not 10 of 10"),
        ("phi", {"head_dim": 16, "partial_rotary_factor": 0.5}, "rotate a multiple of 16 dimensions, not 8 of 16"),
        ("phi", {"head_dim": 32, "partial_rotary_factor": 0.5, "qk_layernorm": True}, "can't hold qk_layernorm: True"),
    ],
)
def test_what_the_builder_lacks_is_one_line(family, changes, reason):
    with pytest.raises(UserError, match=reason) as error:
        onnx_files.require_buildable(tiny.config(family, 100, **{**SIZES, **changes}))
    assert "\n" not in str(error.value)


def test_a_missing_builder_is_one_line(monkeypatch):
    monkeypatch.setattr(onnx_files, "PACKAGES", ("no_such_package",))
    with pytest.raises(UserError, match=r"params.yaml: export.formats: onnx needs .*; pip install -e '.\[onnx\]'"):
        onnx_files.require_buildable(tiny.config("llama", 100, **SIZES))
