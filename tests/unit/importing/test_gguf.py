import json

import gguf as gguf_library
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.parity.tokenizer import PlainBPE, probes
from minigpts.errors import UserError
from minigpts.importing import gguf, imported
from minigpts.model import checkpoint
from minigpts.model.weights import StoredWeights
from tests import tiny
from tests.unit.corpus.readers import files

IDS = torch.arange(90).reshape(2, 45)


def converted(source, tmp_path, dtype=torch.float32, **options):
    """The checkpoint folder that a tiny checkpoint becomes by way of a GGUF file."""
    path = files.write_gguf(tmp_path / "tiny.gguf", source, **options)
    imported.write(gguf.read(path, dtype), path, tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("shape", [{}, {"tie_word_embeddings": False}, {"head_dim": 6}, {"num_key_value_heads": 4}])
def test_logits_are_the_originals_to_the_bit(tmp_path, shape):
    source = tiny.write_checkpoint(tmp_path / "tiny", rope_parameters={"rope_type": "default", "rope_theta": 5000.0}, **shape)
    out = converted(source, tmp_path)
    expected = checkpoint.load_model(source, torch.float32)(IDS).logits
    assert torch.equal(checkpoint.load_model(out, torch.float32)(IDS).logits, expected)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(out)(IDS).logits, expected)


def test_quantized_tensors_come_back_within_their_step(tmp_path):
    source = tiny.write_checkpoint(tmp_path / "tiny", hidden_size=64, head_dim=16, intermediate_size=96)
    original, weights = StoredWeights(source), StoredWeights(converted(source, tmp_path, quantized=True))
    assert weights.keys() == original.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, original[name], rtol=0, atol=original[name].abs().max().item() / 127)


def test_the_dtype_asked_for_is_the_rounded_float32(tmp_path):
    source = tiny.write_checkpoint(tmp_path / "tiny")
    out = converted(source, tmp_path, torch.bfloat16)
    for name, weight in StoredWeights(source).items():
        assert torch.equal(StoredWeights(out)[name], weight.bfloat16())


def give_it_a_double_space(directory):
    """Make the last merge one of two spaces: which spaces stand together before a digit is where splits differ."""
    content = json.loads((directory / "tokenizer.json").read_text())
    vocab, merges = content["model"]["vocab"], content["model"]["merges"]
    vocab["ĠĠ"] = vocab.pop("".join(merges.pop()))
    merges.append(["Ġ", "Ġ"])
    (directory / "tokenizer.json").write_text(json.dumps(content))


def test_tokenizer_equals_an_independent_reading_of_the_file(tmp_path):
    source = tiny.write_checkpoint(tmp_path / "tiny")
    give_it_a_double_space(source)
    tokenizer, plain = AutoTokenizer.from_pretrained(converted(source, tmp_path)), PlainBPE(tmp_path / "tiny.gguf")
    texts = tiny.sentences(50) + [text for lines in probes(100, tiny.SPECIAL, tiny.WORDS).values() for text in lines]
    for text in texts:
        assert tokenizer(text).input_ids == plain.encode(text), text


def test_template_special_tokens_and_context_come_from_the_metadata(tmp_path):
    source = tiny.write_checkpoint(tmp_path / "tiny")
    tokenizer = AutoTokenizer.from_pretrained(converted(source, tmp_path))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id) == (1, 2, 2, 0)
    assert tokenizer.model_max_length == 256
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "heart 12"}])["input_ids"]
    assert tokenizer.decode(chat) == "<|im_start|>user\nheart 12<|im_end|>\n"
    assert tokenizer.decode(chat, skip_special_tokens=True) == "user\nheart 12\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "qwen2"}, "general.architecture is 'qwen2'; only 'llama' is supported"),
        ({"pre": "deepseek-llm"}, "pre-tokenizer 'deepseek-llm' is not supported; supported: gpt-2, smollm"),
    ],
)
def test_what_stock_llama_is_not_is_refused(tmp_path, options, message):
    source = tiny.write_checkpoint(tmp_path / "tiny")
    with pytest.raises(UserError, match=message):
        converted(source, tmp_path, **options)
    assert not (tmp_path / "out").exists()


def test_a_tensor_without_a_place_is_refused(tmp_path, monkeypatch):
    source = tiny.write_checkpoint(tmp_path / "tiny")
    monkeypatch.setitem(files.LLAMA_CPP_NAMES, "self_attn.o_proj", "attn_sinks")
    with pytest.raises(UserError, match=r"tensor 'blk.0.attn_sinks.weight' has no place in stock Llama"):
        converted(source, tmp_path)


def test_nan_is_refused_by_name_and_nothing_is_written(tmp_path):
    source = tiny.write_checkpoint(tmp_path / "tiny")
    weights = dict(StoredWeights(source))
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = torch.nan
    with checkpoint.saving(tmp_path / "bad", checkpoint.load_config(source), weights.items(), source):
        pass
    with pytest.raises(UserError, match=r"tiny.gguf: model.layers.1.mlp.up_proj.weight has NaN"):
        converted(tmp_path / "bad", tmp_path)
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.6, 0.99])
def test_a_truncated_file_is_refused(tmp_path, share):
    path = files.write_gguf(tmp_path / "tiny.gguf", tiny.write_checkpoint(tmp_path / "tiny"))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match="not a whole GGUF file"):
        gguf.read(path, torch.float32)


def test_a_vocabulary_without_its_merges_parts_is_refused(tmp_path, monkeypatch):
    source = tiny.write_checkpoint(tmp_path / "tiny")
    monkeypatch.setattr(
        gguf_library.GGUFWriter, "add_token_merges", lambda self, merges: self.add_array("tokenizer.ggml.merges", ["no such"])
    )
    with pytest.raises(UserError, match="its merges contradict its tokens"):
        converted(source, tmp_path)


def test_tokenizer_json_is_the_originals(tmp_path):
    source = tiny.write_checkpoint(tmp_path / "tiny")
    out = converted(source, tmp_path)
    assert json.loads((out / "tokenizer.json").read_text()) == json.loads((source / "tokenizer.json").read_text())
