import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from minigpts import checkpoint
from minigpts.errors import UserError
from minigpts.sources import imported, local
from tests import tiny

IDS = torch.arange(90).reshape(2, 45)


def converted(folder, dtype=torch.float32):
    out = folder.with_name("out")
    imported.write(local.read(folder, dtype), folder, out)
    return out


def edit(path, **changes):
    """Set keys of a JSON file; None removes one."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


@pytest.fixture
def folder(tmp_path):
    return tiny.write_checkpoint(tmp_path / "model")


@pytest.mark.parametrize("family", ["llama", "opt"])
@pytest.mark.parametrize("tied", [True, False])
def test_what_transformers_saves_in_shards_comes_in_whole(tmp_path, family, tied):
    source = tiny.write_checkpoint(tmp_path / "source", family, tie_word_embeddings=tied)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    tokenizer.save_pretrained(tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    out = converted(tmp_path / "sharded")
    assert torch.equal(checkpoint.load_model(out, torch.float32)(IDS).logits, model(IDS).logits)
    assert checkpoint.sizes(out) == checkpoint.sizes(source)
    assert AutoTokenizer.from_pretrained(out).get_vocab() == tokenizer.get_vocab()
    assert AutoTokenizer.from_pretrained(out).chat_template == tiny.CHAT_TEMPLATE


def test_a_checkpoint_of_ours_comes_out_byte_for_byte(folder):
    once = converted(folder)
    twice = once.rename(once.with_name("again"))
    for file in converted(twice).iterdir():
        assert file.read_bytes() == (twice / file.name).read_bytes(), file.name


def test_weights_are_converted_to_the_dtype_asked_for(folder):
    out = converted(folder, torch.bfloat16)
    assert checkpoint.stored_dtype(out) == torch.bfloat16
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.bfloat16


@pytest.mark.parametrize("tokenizer_class", ["GPT2Tokenizer", "GPT2TokenizerFast", "Qwen2Tokenizer", "GPTNeoXTokenizerFast"])
def test_tokenizer_json_decides_whatever_class_the_folder_names(folder, tokenizer_class):
    split = {"type": "Split", "pattern": {"String": "r"}, "behavior": "Isolated", "invert": False}
    bytes_only = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    edit(folder / "tokenizer.json", pre_tokenizer={"type": "Sequence", "pretokenizers": [split, bytes_only]})
    edit(folder / "tokenizer_config.json", tokenizer_class=tokenizer_class)
    file, stock = Tokenizer.from_file(str(folder / "tokenizer.json")), AutoTokenizer.from_pretrained(folder)
    ours, text = AutoTokenizer.from_pretrained(converted(folder)), "an abnormality of the heart"
    assert ours(text).input_ids == file.encode(text).ids != stock(text).input_ids


def test_vocab_and_merges_without_tokenizer_json_become_one(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(content["model"]["vocab"]))
    (folder / "merges.txt").write_text("\n".join(" ".join(merge) for merge in content["model"]["merges"]))
    (folder / "tokenizer.json").unlink()
    edit(folder / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    text = "an abnormality of the heart 12"
    stock = AutoTokenizer.from_pretrained(folder)(text).input_ids
    assert AutoTokenizer.from_pretrained(converted(folder))(text).input_ids == stock


@pytest.mark.parametrize("settings", [{"do_sample": True, "temperature": 0.6}, {"do_sample": False, "temperature": 0.6}])
def test_generation_settings_are_kept_even_where_they_contradict_each_other(folder, settings):
    edit(folder / "generation_config.json", **settings)
    out = json.loads((converted(folder) / "generation_config.json").read_text())
    assert settings.items() <= out.items()


@pytest.mark.parametrize("stored", ["both names", "the head's name"])
def test_a_tied_matrix_is_found_under_either_name(folder, stored):
    expected = checkpoint.load_model(folder, torch.float32)(IDS).logits
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    if stored == "the head's name":
        del weights["model.embed_tokens.weight"]
    save_file(weights, folder / "model.safetensors")
    out = converted(folder)
    assert torch.equal(checkpoint.load_model(out, torch.float32)(IDS).logits, expected)
    assert "lm_head.weight" not in checkpoint.read_weights(out)


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def truncated(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])


def weight(name, change):
    """A damage that replaces one tensor; ``change`` gives the new one, or None."""

    def damage(folder):
        weights = load_file(folder / "model.safetensors")
        new = change(weights.pop(name))
        save_file(weights if new is None else weights | {name: new.contiguous()}, folder / "model.safetensors")

    return damage


def config(**changes):
    return lambda folder: edit(folder / "config.json", **changes)


def without(name):
    return lambda folder: (folder / name).unlink()


def missing_shard(folder):
    shutil.move(folder / "model.safetensors", folder / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def tokenizer_config(**changes):
    return lambda folder: edit(folder / "tokenizer_config.json", **changes)


def half(name):
    return lambda folder: (folder / name).write_text((folder / name).read_text()[:20])


def empty_index(folder):
    (folder / "model.safetensors.index.json").write_text("{}")


UP, DOWN = "model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"
BAD = {
    "pickled": (pickled, "weights are pickled"),
    "truncated": (truncated, r"model/model.safetensors: not a readable safetensors file"),
    "missing shard": (missing_shard, r"model-00002-of-00002.safetensors: no such file"),
    "no weights": (without("model.safetensors"), r"model.safetensors: no such file"),
    "no config": (without("config.json"), r"config.json: no such file"),
    "no tokenizer": (without("tokenizer.json"), r"model: no tokenizer.json, and transformers can't load its tokenizer"),
    "unknown model_type": (config(model_type="mamba"), "model_type 'mamba' is not supported; supported: llama, opt"),
    "remote code": (config(model_type="my_own", auto_map={"AutoModelForCausalLM": "m.M"}), "needs code of its own"),
    "quantized config": (config(quantization_config={"quant_method": "awq"}), "the weights are quantized"),
    "integer weights": (weight(UP, lambda old: old.to(torch.int8)), f"{UP} is int8"),
    "NaN": (weight(UP, lambda old: old.index_fill(0, torch.tensor(3), torch.nan)), f"model: {UP} has NaN or infinite values"),
    "infinite": (weight(DOWN, lambda old: old.clamp(min=torch.inf)), f"{DOWN} has NaN or infinite values"),
    "wrong shape": (weight(UP, lambda old: old[:-1]), r"model/model.safetensors: its shapes contradict config.json"),
    "missing tensor": (weight(DOWN, lambda old: None), rf"model/model.safetensors: does not match config.json: missing {DOWN}"),
    "untied after all": (weight("lm_head.weight", lambda old: old + 1), "says tie_word_embeddings, but lm_head differs"),
    "token of the config alone": (tokenizer_config(pad_token="<pad>"), r"lacks the token '<pad>'"),
    "tokenizer's own code": (tokenizer_config(tokenizer_class="My", auto_map={"AutoTokenizer": ["my.My", None]}), "custom code"),
    "half a config": (half("config.json"), r"config.json: not valid JSON"),
    "half a tokenizer": (half("tokenizer.json"), "transformers can't load its tokenizer"),
    "half a generation config": (half("generation_config.json"), r"generation_config.json: not valid JSON"),
    "empty index": (empty_index, r"index.json: has no 'weight_map'"),
    "config against itself": (config(num_attention_heads=3), r"config.json: .*not a multiple of the number of attention heads"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_folders_are_refused_in_one_line_and_nothing_is_written(folder, case):
    damage, message = BAD[case]
    if case == "untied after all":
        weights = load_file(folder / "model.safetensors")
        save_file(weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}, folder / "model.safetensors")
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        converted(folder)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["model", "model-tokenizer"]


def test_a_token_without_an_embedding_row_is_refused(folder):
    rows = load_file(folder / "model.safetensors")["model.embed_tokens.weight"].shape[0]
    weight("model.embed_tokens.weight", lambda old: old[:-1])(folder)
    edit(folder / "config.json", vocab_size=rows - 1)
    with pytest.raises(UserError, match=f"token id {rows - 1}, config.json's vocab_size is {rows - 1}"):
        converted(folder)


def test_overflow_of_the_dtype_asked_for_is_refused(folder):
    weight(UP, lambda old: old * 1e6)(folder)
    with pytest.raises(UserError, match=f"{UP} has NaN or infinite values in float16"):
        converted(folder, torch.float16)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        local.read(tmp_path / "nowhere", torch.float32)
