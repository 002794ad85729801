"""bits.csv: every row a file, read back and scored; and its picture."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from benchmarks.experiments import bits
from benchmarks.llamacpp import library, parity, quantize_model
from benchmarks.llamacpp.files import load, write_plain
from benchmarks.llamacpp.run import LlamaCpp
from minigpts import artifacts
from minigpts.errors import UserError
from minigpts.evaluation import language_modeling
from minigpts.model import checkpoint
from tests import tiny

PACKAGE = os.environ.get("LLAMA_QUANTIZER")  # the folder that llama.cpp's quantizer was installed in
COLUMNS = "data,name,megabytes,bits_per_byte,perplexity,perplexity_over_tuned_parent,acc,acc_norm,loop_rate,tokens_per_second"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """Checkpoints, text and questions; an exported file."""
    folder = tmp_path_factory.mktemp("bits")
    for seed, name in enumerate(("tuned_parent", "pruned")):
        tiny.write_checkpoint(
            folder / name, seed=seed, hidden_size=64, intermediate_size=256, head_dim=16, max_position_embeddings=1024
        )
    for seed, split in enumerate(("calibration", "validation", "test")):
        artifacts.write_table(folder / f"prepared/{split}.parquet", {"text": tiny.sentences(20, seed)})
    question = {"question": "Which organ?", "choices": ["heart", "lung"], "answer": 0, "split": "test"}
    artifacts.write_jsonl(folder / "prepared/mcq.jsonl", [question, {**question, "answer": 1, "split": "validation"}])
    (folder / "export").mkdir()
    write_plain(folder / "pruned", folder / "export/child.gguf", "F16")
    return folder


def flags(project: Path, out: Path, *more: str) -> list[str]:
    named = {"parent": "tuned_parent", "tuned-parent": "tuned_parent", "pruned": "pruned", "prepared": "prepared"}
    paths = [word for flag, name in named.items() for word in (f"--{flag}", str(project / name))]
    return [*paths, "--out", str(out), "--package", PACKAGE or "none", *more]


def test_rows_are_written_as_they_are_measured_and_a_killed_run_goes_on(project, tmp_path, monkeypatch):
    monkeypatch.setattr(bits, "MIXTURES", ("BF16",))
    out = tmp_path / "bits.csv"
    exported = ("--exported", f"f16={project / 'export'}")
    measured = bits.Domain.measured

    def killed(domain: bits.Domain, file: Path, folder: Path, num_threads: int) -> dict:
        if folder.name == "pruned":
            raise KeyboardInterrupt
        return measured(domain, file, folder, num_threads)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(bits.Domain, "measured", killed)
        bits.main(flags(project, out, *exported))
    (first,) = artifacts.read_csv(out)
    assert first["name"] == bits.REFERENCE and float(first["perplexity_over_tuned_parent"]) == 1
    artifacts.write_csv(out, [{**first, "loop_rate": 0.125}])
    bits.main(flags(project, out, *exported))
    rows = {row["name"]: row for row in artifacts.read_csv(out)}
    assert out.read_text().splitlines()[0] == COLUMNS
    assert list(rows) == ["ours, f16", "pruned, BF16", bits.REFERENCE]
    assert rows[bits.REFERENCE]["loop_rate"] == "0.125"  # not measured again
    assert (tmp_path / "bits_medical.png").read_bytes().startswith(b"\x89PNG")
    model, texts = checkpoint.load_model(project / "pruned", torch.float32), bits.texts(project / "prepared", "test")
    tokenizer = checkpoint.load_fast_tokenizer(project / "pruned")
    whole = language_modeling.score(model, tokenizer, texts, sequence_length=1024, batch_tokens=4096).bits_per_byte
    assert float(rows["ours, f16"]["bits_per_byte"]) == pytest.approx(whole, rel=1e-3)
    assert float(rows["ours, f16"]["megabytes"]) == (project / "export/child.gguf").stat().st_size / 1e6


@pytest.mark.parametrize(
    ("given", "message"), [("=x", "--exported takes NAME=FOLDER"), ("a=prepared", "0 GGUF files, expected one")]
)
def test_an_exported_folder_that_is_none_is_named(given, message, project, tmp_path, monkeypatch):
    monkeypatch.setattr(bits, "MIXTURES", ("BF16",))
    monkeypatch.chdir(project)
    with pytest.raises(UserError, match=message):
        bits.main(flags(project, tmp_path / "bits.csv", "--exported", given))
    assert not (tmp_path / "bits.csv").exists()


def test_llamacpp_reads_a_file_as_transformers_reads_the_checkpoint(project, tmp_path):
    write_plain(project / "pruned", tmp_path / "model.gguf", "F32")
    model, tokenizer = load(tmp_path / "model.gguf", project / "pruned"), checkpoint.load_fast_tokenizer(project / "pruned")
    with LlamaCpp(tmp_path / "model.gguf") as running:
        for text in tiny.sentences(5, 3):
            assert running.tokenize(text) == tokenizer.encode(text).ids
        ids = running.tokenize(tiny.sentences(1, 7)[0])
        with torch.no_grad():
            expected = model(torch.tensor([ids])).logits[0].log_softmax(-1)[range(len(ids) - 1), ids[1:]]
        assert running.log_probabilities(ids) == pytest.approx(expected.numpy(), abs=2e-5)
        written = model.generate(torch.tensor([ids]), max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0)
        assert running.greedy(ids, 16) == written[0, len(ids) :].tolist()
        with pytest.raises(UserError, match="room for 1,024 tokens, got 2,000"):
            running.logits([5] * 2000)


def test_what_llamacpp_cannot_load_is_named(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF, but no more")
    with pytest.raises(UserError, match=r"model.gguf: llama.cpp can't load it"):
        LlamaCpp(tmp_path / "model.gguf")


def test_without_the_quantizer_the_command_that_installs_it_is_named_before_any_work(project, tmp_path):
    with pytest.raises(UserError, match=r"npm install --prefix FOLDER @node-llama-cpp/linux-x64@3\.22\.1"):
        bits.main([*flags(project, tmp_path / "bits.csv"), "--package", str(tmp_path)])
    assert not (tmp_path / "bits.csv").exists()


def test_parity_compares_llamacpp_with_transformers_on_the_files_weights(project, tmp_path, monkeypatch):
    monkeypatch.setattr(parity, "TYPES", ("F32", "BF16"))
    child = f"child={project / 'export/child.gguf'},{project / 'pruned'}"
    named = [
        "--parent",
        str(project / "tuned_parent"),
        "--prepared",
        str(project / "prepared"),
        "--package",
        "none",
        "--child",
        child,
    ]
    parity.main([*named, "--out", str(tmp_path / "llamacpp.csv")])
    exact, rounded, own = artifacts.read_csv(tmp_path / "llamacpp.csv")
    assert [row["name"] for row in (exact, rounded, own)] == ["parent, F32", "parent, BF16", "child"]
    assert exact["lines_tokenized_alike"] == exact["lines"] == exact["continuations_alike"] == exact["continuations"] == "20"
    assert float(exact["log_probability_max_difference"]) < 2e-5 < float(rounded["log_probability_max_difference"])
    assert all(float(row["log_probability_max_difference_in_f32"]) < 2e-5 for row in (exact, rounded, own))
    assert float(rounded["megabytes"]) < 0.8 * float(exact["megabytes"])
    with pytest.raises(UserError, match=r"--child takes NAME=FILE\.gguf,CHECKPOINT, got 'child='"):
        parity.main([*named, "--child", "child="])


@pytest.mark.skipif(PACKAGE is None, reason="llama.cpp's quantizer: set LLAMA_QUANTIZER to the folder npm installed it in")
def test_a_mixture_is_made_with_the_importance_matrix(project, tmp_path):
    from gguf import GGUFReader

    write_plain(project / "pruned", tmp_path / "source.gguf", "F32")
    tensors = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "source.gguf").tensors}
    name = "blk.0.ffn_down.weight"
    columns = torch.rand(256, generator=torch.Generator().manual_seed(0)).pow(4).numpy()
    found = {}
    for called, importance in {"with": {name: columns}, "without": {}}.items():
        quantize_model.quantize(tmp_path / "source.gguf", tmp_path / f"{called}.gguf", "Q4_K_M", importance, Path(PACKAGE or ""))
        stored = {tensor.name: tensor for tensor in GGUFReader(tmp_path / f"{called}.gguf").tensors}
        found[called] = stored[name].data.copy()
        kind = stored[name].tensor_type.name
    assert (found["with"] != found["without"]).any()
    assert (found["with"] == library.packed(tensors[name].data, kind, columns)).all()
    with pytest.raises(UserError, match="unknown mixture 'Q9'"):
        quantize_model.quantize(tmp_path / "source.gguf", tmp_path / "x.gguf", "Q9", {}, Path(PACKAGE or ""))
    with pytest.raises(UserError, match=r"prepared: llama.cpp can't quantize it to Q8_0"):
        quantize_model.quantize(project / "prepared", tmp_path / "x.gguf", "Q8_0", {}, Path(PACKAGE or ""))
