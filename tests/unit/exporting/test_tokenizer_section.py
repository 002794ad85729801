"""Every family's dialect of BPE, whole and trimmed, in llama.cpp itself: the same tokens for every text."""

import json

import pytest
from tokenizers import Tokenizer

from benchmarks.llamacpp.run import LlamaCpp
from minigpts.errors import UserError
from minigpts.exporting import gguf_file
from minigpts.exporting.tokenizer_section import tokenizer_section
from minigpts.importing import imported
from minigpts.model import checkpoint
from minigpts.model.weights import StoredWeights
from minigpts.vocabulary import dialect, trim
from tests import tiny
from tests.unit.vocabulary import builders

NAMES = {
    "byte-level": "smollm",
    **dict.fromkeys(("gpt2", "opt", "roberta", "neox"), "gpt-2"),
    "qwen2": "dbrx",  # builders' splits off three digits, as Llama 3's does
    "llama3": "llama-bpe",
    **dict.fromkeys(("sentencepiece", "metaspace", "gemma"), "default"),
}
TEXTS = (
    *imported.PROBES,
    *trim.PROBES,
    *tiny.sentences(20),
    *(
        "",
        " ",
        "   x",
        "two  spaces",
        " lungs and <|im_end|> lungs<unk>x",
        "<s> a <eos>b",
        "\n\n\n▁▁ a     b",
        "I'LL she's 1234567",
    ),
)


def trimmed(definition):
    """Without every third token that no text below and no merge of what stays needs."""
    tokenizer = Tokenizer.from_str(json.dumps(definition))
    needed = {token for text in tiny.sentences(10) for token in tokenizer.encode(text).tokens}
    needed |= dialect.base_symbols(definition) | dialect.unknown(definition)
    needed |= {tokenizer.id_to_token(token_id) for token_id in trim.ids_of(definition)}
    parts = {}
    for left, right in dialect.ranks(definition):
        parts.setdefault(left + right, set()).update((left, right))
    while more := set().union(*(parts.get(token, set()) for token in needed)) - needed:
        needed |= more
    ids = {tokenizer.token_to_id(token) for token in needed}
    return trim.trim(definition, sorted(ids - {None}))


def folder_of(tmp_path, definition):
    """A checkpoint with this tokenizer, and three rows of the embedding beyond it."""
    tokenizer = Tokenizer.from_str(json.dumps(definition))
    model = tiny.write_checkpoint(tmp_path / "checkpoint", vocab_size=tokenizer.get_vocab_size() + 3)
    around = [tokenizer.id_to_token(token_id) for token_id in tokenizer.encode("").ids]
    roles = dict(zip(("bos_token", "eos_token"), around, strict=False))
    (model / "tokenizer.json").write_text(json.dumps(definition))
    (model / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **roles}))
    return model, tokenizer


def write(tmp_path, model):
    config, stored = checkpoint.load_config(model), StoredWeights(model)
    section = tokenizer_section(model, config.vocab_size)
    gguf_file.write(tmp_path / "model.gguf", config, stored.shapes, {}, section, stored.items())
    return section


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "trimmed"])
@pytest.mark.parametrize("kind", builders.KINDS)
def test_llama_cpp_gives_the_same_tokens(tmp_path, kind, whole):
    definition = builders.KINDS[kind]()
    model, tokenizer = folder_of(tmp_path, definition if whole else trimmed(definition))
    section = write(tmp_path, model)
    assert section["tokenizer.ggml.pre"] == NAMES[kind]
    assert section["tokenizer.ggml.tokens"][-1] == f"[PAD{tokenizer.get_vocab_size() + 2}]"
    # Metaspace writes no ▁ before a text that begins with a space, or behind a special token; llama.cpp does.
    texts = [text for text in TEXTS if kind != "metaspace" or (not text.startswith((" ", "▁")) and "<" not in text)]
    with LlamaCpp(tmp_path / "model.gguf") as ours:
        assert {text: ours.tokenize(text, whole=True) for text in texts} == {text: tokenizer.encode(text).ids for text in texts}


def test_one_digit_at_a_time_is_qwens(tmp_path):
    definition = builders.qwen2()
    split = definition["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    split["Regex"] = split["Regex"].replace("{1,3}", "")
    model, tokenizer = folder_of(tmp_path, definition)
    assert write(tmp_path, model)["tokenizer.ggml.pre"] == "qwen2"
    with LlamaCpp(tmp_path / "model.gguf") as ours:
        assert [ours.tokenize(text, whole=True) for text in TEXTS] == [tokenizer.encode(text).ids for text in TEXTS]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"pre_tokenizer": {**builders.BYTE_LEVEL, "add_prefix_space": True}},
            "has no name for the pre-tokenizer .*add_prefix_space",
        ),
        ({"normalizer": {"type": "Lowercase"}}, "no normalizer Lowercase"),
        ({"post_processor": builders._in_front("<|im_end|>", 2)}, "can't put <|im_end|> around a text"),
    ],
)
def test_what_llama_cpp_lacks_is_one_line(tmp_path, change, reason):
    definition = {**builders.byte_level(), **change}
    model, _ = folder_of(tmp_path, definition)
    (model / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(UserError, match=reason) as error:
        tokenizer_section(model, 1000)
    assert "\n" not in str(error.value)


def test_roles_and_the_end_of_a_turn(tmp_path):
    model = tiny.write_checkpoint(tmp_path / "checkpoint")
    section = tokenizer_section(model, checkpoint.load_config(model).vocab_size)
    ids = {key: section[f"tokenizer.ggml.{key}_token_id"] for key in ("bos", "eos", "eot", "unknown", "padding")}
    assert ids == {"bos": 1, "eos": 2, "eot": 2, "unknown": 0, "padding": 2}
    assert section["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1]
    assert section["tokenizer.chat_template"] == tiny.CHAT_TEMPLATE
