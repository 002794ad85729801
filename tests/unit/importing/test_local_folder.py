import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from minigpts.errors import UserError
from minigpts.importing import imported, local_folder
from minigpts.model import checkpoint
from minigpts.model.weights import StoredWeights
from tests import tiny
from tests.unit.corpus.readers.files import SPM_PIECES, sentencepiece_model

IDS = torch.arange(90).reshape(2, 45)


def converted(folder, dtype=torch.float32):
    out = folder.with_name("out")
    imported.write(local_folder.read(folder, dtype), folder, out)
    return out


def edit(path, **changes):
    """Set keys of a JSON file; None removes one."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


@pytest.fixture
def folder(tmp_path):
    return tiny.write_checkpoint(tmp_path / "model")


@pytest.mark.parametrize("variant", [*tiny.FAMILIES, "llama untied, biased", "phi tied, grouped", "opt untied, unbiased"])
def test_what_transformers_saves_in_shards_comes_in_whole(tmp_path, variant):
    family, changes = tiny.VARIANTS[variant]
    source = tiny.write_checkpoint(tmp_path / "source", family, **changes)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    tokenizer.save_pretrained(tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    out = converted(tmp_path / "sharded")
    assert torch.equal(checkpoint.load_model(out, torch.float32)(IDS).logits, model(IDS).logits)
    assert checkpoint.sizes(out) == checkpoint.sizes(source)
    assert AutoTokenizer.from_pretrained(out).get_vocab() == tokenizer.get_vocab()
    assert AutoTokenizer.from_pretrained(out).chat_template == tiny.CHAT_TEMPLATE


def as_the_hub_has_it(name):
    """A multimodal model's tensor by the name of transformers before 4.52, which the hub's files have kept."""
    if name.startswith("model.language_model."):
        return name.replace("model.language_model.", "language_model.model.", 1)
    return f"language_model.{name}" if name.startswith("lm_head.") else name.removeprefix("model.")


VISION = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}


QWEN_VISION = {"hidden_size": 8, "intermediate_size": 8, "depth": 1, "num_heads": 2, "patch_size": 4, "out_hidden_size": 40}
WRAPPED = {  # what the wrapper's config has, the vision model's, and the modules left behind
    "gemma3": ({"mm_tokens_per_image": 4}, {**VISION, "model_type": "siglip_vision_model"}, "multi_modal_projector, vision_tower"),
    "mistral3": ({}, {**VISION, "model_type": "pixtral"}, "multi_modal_projector, vision_tower"),
    "qwen3_5": ({}, {**QWEN_VISION, "model_type": "qwen3_5_vision"}, "mtp, visual"),
    "qwen3_5_moe": ({}, {**QWEN_VISION, "model_type": "qwen3_5_moe_vision"}, "mtp, visual"),
}


@pytest.mark.parametrize(
    ("wrapper", "family"),
    [
        ("gemma3", "gemma3_text"),
        ("mistral3", "ministral3"),
        ("mistral3", "mistral"),
        ("qwen3_5", "qwen3_5_text"),
        ("qwen3_5_moe", "qwen3_5_moe_text"),
    ],
)
@pytest.mark.parametrize("names", [lambda name: name, as_the_hub_has_it], ids=["modules", "hub"])
def test_the_text_model_of_a_multimodal_checkpoint_comes_in_alone(tmp_path, capsys, wrapper, family, names):
    source = tiny.write_checkpoint(tmp_path / "source", family)
    text = checkpoint.load_config(source)
    both, vision, left_behind = WRAPPED[wrapper]
    tied = text.tie_word_embeddings
    settings = AutoConfig.for_model(wrapper, text_config=text.to_dict(), vision_config=vision, tie_word_embeddings=tied, **both)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(settings, dtype=torch.float32).eval()
    folder = tmp_path / "multimodal"
    shutil.copytree(source, folder)
    model.config.save_pretrained(folder)
    tensors = {name: value for name, value in model.state_dict().items() if not (tied and name.startswith("lm_head."))}
    tensors |= {"mtp.fc.weight": torch.ones(2, 2)} if wrapper.startswith("qwen3_5") else {}  # no class of transformers has it
    save_file({names(name): value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")
    out = converted(folder)
    said = capsys.readouterr().err
    assert f"not read: {left_behind} (" in said and "tensors beside the text model)" in said
    assert checkpoint.load_config(out).model_type == family
    with torch.inference_mode():
        assert torch.equal(checkpoint.load_model(out, torch.float32)(IDS).logits, model(input_ids=IDS).logits)
    assert checkpoint.stored_shapes(checkpoint.load_config(out)) == StoredWeights(source).shapes


def test_a_checkpoint_of_ours_comes_out_byte_for_byte(folder):
    once = converted(folder)
    twice = once.rename(once.with_name("again"))
    for file in converted(twice).iterdir():
        assert file.read_bytes() == (twice / file.name).read_bytes(), file.name


def test_weights_are_rounded_to_the_dtype_asked_for_and_a_parent_of_that_dtype_is_kept_to_the_bit(folder):
    parent = StoredWeights(folder)
    half = converted(folder, torch.bfloat16)
    assert AutoModelForCausalLM.from_pretrained(half).dtype == torch.bfloat16
    once = half.rename(half.with_name("once"))
    for out in (once, converted(once, torch.bfloat16)):
        for name, tensor in StoredWeights(out).items():
            assert torch.equal(tensor, parent[name].to(torch.bfloat16)), name


def gpt2_of_2019(weights):
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 256, 256).tril() for layer in range(3)}
    constants = {f"h.{layer}.attn.masked_bias": torch.tensor(-1e4) for layer in range(3)}
    return {name.removeprefix("transformer."): tensor for name, tensor in weights.items()} | masks | constants


def gpt_neox_of_2022(weights):
    attention = "gpt_neox.layers.{}.attention."
    masks = {attention.format(layer) + "bias": torch.ones(1, 1, 256, 256).tril().bool() for layer in range(3)}
    constants = {attention.format(layer) + "masked_bias": torch.tensor(-1e9) for layer in range(3)}
    frequencies = {attention.format(layer) + "rotary_emb.inv_freq": torch.ones(5) for layer in range(3)}
    return {name.replace("lm_head", "embed_out"): tensor for name, tensor in weights.items()} | masks | constants | frequencies


def opt_of_2022(weights):
    names = {name: name.removeprefix("model.") for name in weights}
    return {names[name]: tensor for name, tensor in weights.items()} | {
        "lm_head.weight": weights["model.decoder.embed_tokens.weight"].clone()
    }


def llama_of_2023(weights):
    return weights | {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(5) for layer in range(3)}


@pytest.mark.parametrize(
    ("family", "older"), [("gpt2", gpt2_of_2019), ("gpt_neox", gpt_neox_of_2022), ("opt", opt_of_2022), ("llama", llama_of_2023)]
)
def test_names_that_checkpoints_had_in_older_years_are_understood(tmp_path, family, older):
    folder = tiny.write_checkpoint(tmp_path / "model", family)
    expected = checkpoint.load_model(folder, torch.float32)(IDS).logits
    save_file(older(load_file(folder / "model.safetensors")), folder / "model.safetensors")
    assert torch.equal(checkpoint.load_model(converted(folder), torch.float32)(IDS).logits, expected)


def test_a_checkpoint_of_ours_with_uneven_widths_comes_in(folder):
    config, weights = checkpoint.load_config(folder), load_file(folder / "model.safetensors")
    config.intermediate_sizes = [77, 60, 44]
    for layer, width in enumerate(config.intermediate_sizes):
        for name, axis in {"gate_proj": 0, "up_proj": 0, "down_proj": 1}.items():
            key = f"model.layers.{layer}.mlp.{name}.weight"
            weights[key] = weights[key].narrow(axis, 0, width).contiguous()
    with checkpoint.saving(folder.with_name("uneven"), config, weights.items(), folder):
        pass
    out = converted(folder.with_name("uneven"))
    for name, tensor in StoredWeights(out).items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.parametrize("tokenizer_class", ["GPT2Tokenizer", "GPT2TokenizerFast", "Qwen2Tokenizer", "GPTNeoXTokenizerFast"])
def test_tokenizer_json_decides_whatever_class_the_folder_names(folder, tokenizer_class):
    split = {"type": "Split", "pattern": {"String": "r"}, "behavior": "Isolated", "invert": False}
    bytes_only = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    edit(folder / "tokenizer.json", pre_tokenizer={"type": "Sequence", "pretokenizers": [split, bytes_only]})
    edit(folder / "tokenizer_config.json", tokenizer_class=tokenizer_class)
    file, stock = Tokenizer.from_file(str(folder / "tokenizer.json")), AutoTokenizer.from_pretrained(folder)
    ours, text = AutoTokenizer.from_pretrained(converted(folder)), "an abnormality of the heart"
    assert ours(text).input_ids == file.encode(text).ids != stock(text).input_ids


@pytest.mark.parametrize(
    ("settings", "before"), [({}, []), ({"add_bos_token": True, "bos_token": "<|im_end|>"}, ["<|im_end|>"])], ids=["GPT-2", "OPT"]
)
def test_vocab_and_merges_without_tokenizer_json_become_one(folder, settings, before):
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(content["model"]["vocab"]))
    (folder / "merges.txt").write_text("\n".join(" ".join(merge) for merge in content["model"]["merges"]))
    (folder / "tokenizer.json").unlink()
    edit(folder / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer", **settings)
    stock, ours = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(converted(folder))
    for text in (*imported.PROBES, *tiny.sentences(20)):
        assert ours(text).input_ids == stock(text).input_ids
    assert ours.convert_ids_to_tokens(ours("heart").input_ids) == [*before, "heart"]


def test_a_sentencepiece_model_alone_becomes_a_tokenizer_json(tmp_path):
    folder = tiny.write_checkpoint(tmp_path / "model", vocab_size=len(SPM_PIECES))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    template = "{% for m in messages %}<s>{{ m['content'] }}{% endfor %}"
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(template)
    ours = AutoTokenizer.from_pretrained(converted(folder))
    assert ours.convert_ids_to_tokens(ours("the    heart").input_ids) == ["<s>", "▁the", "▁▁▁", "▁heart"]
    assert ours.special_tokens_map == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    assert ours.chat_template == template


def test_a_damaged_sentencepiece_model_is_named_where_the_user_has_it(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(sentencepiece_model()[:-3])
    with pytest.raises(UserError, match=r"model/tokenizer\.model: not a SentencePiece model, or not a whole one"):
        converted(folder)


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
    assert "lm_head.weight" not in StoredWeights(out).shapes


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
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text("{}")


def elsewhere(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))


UP, DOWN = "model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"
BAD = {
    "pickled": (pickled, "weights are pickled"),
    "truncated": (truncated, r"model/model.safetensors: not a readable safetensors file"),
    "missing shard": (missing_shard, r"model-00002-of-00002.safetensors: no such file"),
    "no weights": (without("model.safetensors"), r"model.safetensors: no such file"),
    "no config": (without("config.json"), r"config.json: no such file"),
    "no tokenizer": (without("tokenizer.json"), r"model: no tokenizer.json, and transformers can't load its tokenizer"),
    "unknown model_type": (
        config(model_type="mamba"),
        r"config.json: model_type 'mamba' is not supported; supported: arcee, .*; docs/adding_an",
    ),
    "layers of several kinds": (
        config(model_type="jamba"),
        r"config.json: model_type 'jamba' is not supported: config.json places its kinds",
    ),
    "embeddings for the layers": (
        config(model_type="gemma3n"),
        r"'gemma3n' is not supported: it has token embeddings of their own",
    ),
    "a fixed width": (config(model_type="bloom"), r"'bloom' is not supported: its class fixes the MLP width at 4 x hidden_size"),
    "experts of Doge": (
        config(model_type="doge", is_moe=True),
        r"config.json: is_moe is True; doge models are supported with False",
    ),
    "a text model of several kinds": (
        config(model_type="mistral3", text_config={"model_type": "jamba"}),
        r"config.json: model_type 'jamba' is not supported: config.json places its kinds",
    ),
    "remote code": (config(model_type="my_own", auto_map={"AutoModelForCausalLM": "m.M"}), "needs code of its own"),
    "quantized config": (config(quantization_config={"quant_method": "awq"}), "the weights are quantized"),
    "integer weights": (weight(UP, lambda old: old.to(torch.int8)), f"model.safetensors: {UP} is I8, so the weights are quantized"),
    "float8 weights": (weight(UP, lambda old: old.to(torch.float8_e4m3fn)), f"{UP} is F8_E4M3, so the weights are quantized"),
    "NaN": (weight(UP, lambda old: old.index_fill(0, torch.tensor(3), torch.nan)), f"model: {UP} has NaN or infinite values"),
    "infinite": (weight(DOWN, lambda old: old.clamp(min=torch.inf)), f"{DOWN} has NaN or infinite values"),
    "wrong shape": (
        weight(UP, lambda old: old[:-1]),
        rf"model: the weights do not match config.json: {UP} is \(76, 40\), expected \(77, 40\)$",
    ),
    "another config": (config(intermediate_size=80), r"\.0\.mlp\.down_proj\.weight is \(40, 77\), expected \(40, 80\) and 8 more$"),
    "more layers": (config(num_hidden_layers=4), r"config.json: missing model\.layers\.3\.input_layernorm\.weight and 8 more$"),
    "fewer layers": (config(num_hidden_layers=2), r"config.json: unexpected model\.layers\.2\.input_layernorm\.weight and 8 more$"),
    "missing tensor": (weight(DOWN, lambda old: None), rf"model: the weights do not match config.json: missing {DOWN}$"),
    "no embedding": (weight("model.embed_tokens.weight", lambda old: None), r"missing (lm_head|model\.embed_tokens)\.weight"),
    "untied after all": (
        weight("lm_head.weight", lambda old: old + 1),
        "says tie_word_embeddings, but lm_head differs from model.embed_tokens",
    ),
    "token of the config alone": (tokenizer_config(pad_token="<pad>"), r"lacks the token '<pad>'"),
    "tokenizer's own code": (
        tokenizer_config(tokenizer_class="My", auto_map={"AutoTokenizer": ["my.My", None]}),
        "code of its own",
    ),
    "half a config": (half("config.json"), r"config.json: not valid JSON"),
    "half a tokenizer": (half("tokenizer.json"), r"tokenizer\.json: not a readable tokenizer"),
    "half a generation config": (half("generation_config.json"), r"generation_config.json: not valid JSON"),
    "empty index": (empty_index, r"index.json: has no 'weight_map'"),
    "index to elsewhere": (elsewhere, r"index.json: names '../model.safetensors', which is no safetensors file beside it"),
    "padding without a row": (config(pad_token_id=9999), r"config.json: pad_token_id 9999 is none of the tokenizer's 386 tokens"),
    "activation nobody knows": (config(hidden_act="relish"), r"config.json: no model can be built of it \(KeyError: "),
    "list of model types": (config(model_type=["llama"]), r"config.json: must be a JSON object with a 'model_type'"),
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
    with pytest.raises(
        UserError, match=rf"tokenizer\.json: has the token id {rows - 1}, but vocab_size in .*config\.json is {rows - 1}"
    ):
        converted(folder)


def test_an_added_token_without_a_row_is_left_out(folder):
    """Gemma 3's text models have one for images: a text that spells it is text."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    num_tokens = tokenizer.get_vocab_size()
    tokenizer.add_special_tokens(["<image>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    edit(folder / "tokenizer_config.json", pad_token="<image>")
    edit(folder / "config.json", pad_token_id=None, vocab_size=num_tokens)
    out = converted(folder)
    assert checkpoint.load_fast_tokenizer(out).get_vocab_size() == num_tokens == len(AutoTokenizer.from_pretrained(out))
    assert max(checkpoint.load_fast_tokenizer(out).encode("an <image> here").ids) < num_tokens
    assert checkpoint.load_config(out).pad_token_id is None


def test_ids_that_the_config_leaves_open_are_the_tokenizers(folder):
    """Phi-1.5's config names no end of text."""
    edit(folder / "config.json", eos_token_id=None, bos_token_id=None)
    (folder / "generation_config.json").unlink()
    out = converted(folder)
    assert (checkpoint.load_config(out).bos_token_id, checkpoint.load_config(out).eos_token_id) == (1, 2)
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == 2


def test_overflow_of_the_dtype_asked_for_is_refused(folder):
    weight(UP, lambda old: old * 1e6)(folder)
    with pytest.raises(UserError, match=f"{UP} has NaN or infinite values in float16"):
        converted(folder, torch.float16)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        local_folder.read(tmp_path / "nowhere", torch.float32)
