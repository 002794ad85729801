"""What later stages would refuse is refused on import, in one line that names the user's own file; -1 means no token."""

from __future__ import annotations

import json

import gguf as gguf_library
import pytest
import torch

from minigpts.errors import UserError
from minigpts.importing import gguf, hub, imported, local_folder
from minigpts.importing.paper_models import HubModel
from minigpts.model import checkpoint
from minigpts.vocabulary import keep
from tests import tiny
from tests.hub_server import Hub, Repository, in_this_process
from tests.unit.corpus.readers.files import write_gguf

TOOLS_ONLY = "{% for tool in tools %}<|im_start|>{{ tool['type'] }}{% endfor %}" + tiny.CHAT_TEMPLATE


def edit(path, **changes):
    """Set keys of a JSON file; None removes one."""
    values = (json.loads(path.read_text()) if path.exists() else {}) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def tokenizer(**changes):
    return lambda folder: edit(folder / "tokenizer.json", **changes)


def model(**changes):
    """Fields of the tokenizer's BPE."""

    def damage(folder):
        definition = json.loads((folder / "tokenizer.json").read_text())
        edit(folder / "tokenizer.json", model=definition["model"] | changes)

    return damage


def settings(name, **changes):
    return lambda folder: edit(folder / name, **changes)


def unigram(folder):
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    edit(folder / "tokenizer.json", model={"type": "Unigram", "unk_id": 0, "vocab": [[token, -1.0] for token in vocab]})


def no_end(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"bos_token_id": None, "eos_token_id": None}))  # else the class's own
    edit(folder / "tokenizer_config.json", bos_token=None, eos_token=None)


def template(text):
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


def in_settings(text):
    def damage(folder):
        (folder / "chat_template.jinja").unlink()
        edit(folder / "tokenizer_config.json", chat_template=text)

    return damage


BOS = {"SpecialToken": {"id": "<s>", "type_id": 0}}
STRANGER = {
    "type": "TemplateProcessing",
    "single": [BOS, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [9999], "tokens": ["<s>"]}},
}
REFUSED = {
    "Unigram": (unigram, r"tokenizer\.json: it is a Unigram tokenizer, and only BPE"),
    "suffixes": (model(end_of_word_suffix="</w>"), r"tokenizer\.json: its end_of_word_suffix is '</w>'"),
    "dropout": (model(dropout=0.1), r"tokenizer\.json: its dropout is 0\.1"),
    "no decoder": (tokenizer(decoder=None), r"tokenizer\.json: it has no decoder"),
    "a decoder by tokens": (
        tokenizer(decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}),
        r"tokenizer\.json: its decoder WordPiece makes",
    ),
    "post-processor": (tokenizer(post_processor=STRANGER), r"tokenizer\.json: names the token id 9999, which is none of its"),
    "no end of text": (no_end, r"config\.json: needs an eos_token_id or a bos_token_id"),
    "foreign padding": (settings("generation_config.json", pad_token_id=9999), r"generation_config\.json: pad_token_id 9999 is"),
    "an id in words": (settings("generation_config.json", eos_token_id="2"), r"generation_config\.json: eos_token_id '2' is none"),
    "an id as a fraction": (
        settings("generation_config.json", eos_token_id=[2, 2.5]),
        r"generation_config\.json: eos_token_id 2\.5 is none",
    ),
    "biases": (settings("generation_config.json", sequence_bias=7), r"generation_config\.json: its token ids can't be renumbered"),
    "heads": (settings("config.json", num_key_value_heads=3), r"config\.json: the model that it describes can't be computed"),
    "one position": (
        settings("config.json", max_position_embeddings=1),
        r"config\.json: max_position_embeddings is 1, must be ≥ 2",
    ),
    "broken tag": (template("{% for m in messages %}{{ m['content'] }"), r"chat_template\.jinja: the chat template doesn't work"),
    "foreign sign": (template("{{ messages ¤ }}"), r"chat_template\.jinja: the chat template doesn't work"),
    "unknown tag": (template("{% chat %}"), r"chat_template\.jinja: the chat template doesn't work"),
    "unknown filter": (template("{{ messages | shout }}"), r"chat_template\.jinja: the chat template doesn't work"),
    "always raises": (template("{{ raise_exception('no') }}"), r"chat_template\.jinja: the chat template doesn't work.*no\)$"),
    "divides by zero": (template("{{ 1 // 0 }}"), r"chat_template\.jinja: the chat template doesn't work"),
    "broken in the settings": (in_settings("{% if %}"), r"tokenizer_config\.json: the chat template doesn't work"),
}


def converted(folder):
    out = folder.with_name("out")
    imported.write(local_folder.read(folder, torch.float32), folder, out)
    return out


@pytest.fixture
def folder(tmp_path):
    return tiny.write_checkpoint(tmp_path / "model")


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_later_stage_would_refuse_is_refused_by_the_name_of_the_users_file(folder, case):
    damage, message = REFUSED[case]
    damage(folder)
    with pytest.raises(UserError, match=rf"^{folder}/{message}") as caught:
        converted(folder)
    assert "\n" not in str(caught.value)
    assert not folder.with_name("out").exists()


def test_the_hub_is_refused_by_its_own_name_and_before_the_weights_are_fetched(folder, tmp_path, monkeypatch):
    unigram(folder)
    with Hub({"us/tiny": Repository({"main": folder})}) as server:
        in_this_process(monkeypatch, server.url, tmp_path / "cache")
        with pytest.raises(UserError, match=r"^us/tiny@main/tokenizer\.json: it is a Unigram tokenizer"):
            hub.read(HubModel("us/tiny", "main"), torch.float32)
        assert not [request for request in server.requests if request.file_bytes and "safetensors" in request.path]


def without(*names):
    return lambda patch: [patch.setattr(gguf_library.GGUFWriter, name, lambda self, *_: None) for name in names]


def changed(name, value):
    def damage(patch):
        original = getattr(gguf_library.GGUFWriter, name)
        patch.setattr(gguf_library.GGUFWriter, name, lambda self, *_: original(self, value))

    return damage


BAD_GGUF = {
    "no end of text": (without("add_bos_token_id", "add_eos_token_id"), "needs an eos_token_id or a bos_token_id"),
    "foreign padding": (changed("add_pad_token_id", 9999), r"tokenizer\.ggml\.padding_token_id is 9999, but the file has 386"),
    "broken template": (changed("add_chat_template", "{% if %}"), "the chat template doesn't work"),
    "no heads": (changed("add_head_count", 0), "its metadata don't describe a model"),
    "other heads": (changed("add_head_count_kv", 3), "the model that it describes can't be computed"),
    "fewer types": (changed("add_token_types", [1, 1]), "its metadata don't describe a model"),
    "merges of three": (changed("add_token_merges", ["a b c"]), "its merges contradict its tokens"),
}


@pytest.mark.parametrize("case", BAD_GGUF)
def test_a_gguf_file_is_refused_by_its_own_name(folder, monkeypatch, case):
    damage, message = BAD_GGUF[case]
    damage(monkeypatch)
    path = write_gguf(folder.with_name("tiny.gguf"), folder)
    with pytest.raises(UserError, match=rf"^{path}: {message}"):
        gguf.read(path, torch.float32)


def ids_of(folder):
    config = checkpoint.load_config(folder)
    generation = json.loads((folder / "generation_config.json").read_text())
    return config.pad_token_id, generation.get("pad_token_id"), generation.get("eos_token_id"), generation.get("suppress_tokens")


def test_minus_one_is_no_token_wherever_an_id_may_stand(folder):
    edit(folder / "config.json", pad_token_id=-1)
    edit(folder / "tokenizer_config.json", pad_token=None)
    edit(folder / "generation_config.json", pad_token_id=-1, eos_token_id=[2, -1], suppress_tokens=[-1])
    assert ids_of(converted(folder)) == (None, None, [2], None)


@pytest.mark.parametrize("none", [-1, 2**32 - 1])
def test_minus_one_is_no_token_in_a_gguf_file(folder, monkeypatch, none):
    write = gguf_library.GGUFWriter.add_int32 if none < 0 else gguf_library.GGUFWriter.add_uint32
    pad = "tokenizer.ggml.padding_token_id"
    monkeypatch.setattr(gguf_library.GGUFWriter, "add_pad_token_id", lambda self, _: write(self, pad, none))
    path = write_gguf(folder.with_name("tiny.gguf"), folder)
    imported.write(gguf.read(path, torch.float32), path, folder.with_name("out"))
    assert ids_of(folder.with_name("out")) == (None, None, 2, None)


def test_a_template_that_needs_tools_is_rendered_with_one(folder):
    (folder / "chat_template.jinja").write_text(TOOLS_ONLY)
    out = converted(folder)
    fast = checkpoint.load_fast_tokenizer(out)
    written = keep.template_ids(out, fast)
    assert set(fast.encode("function").ids) <= written
    assert fast.token_to_id("<|im_start|>") in written
