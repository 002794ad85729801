"""The promise of trimming, on the way that the stage takes: count, choose, cut."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from benchmarks.ratios.tokenizer_trimming import random_strings
from minigpts.model import checkpoint
from minigpts.vocabulary.counts import count_tokens
from minigpts.vocabulary.dialect import BYTE_TOKENS, parts_of, ranks
from minigpts.vocabulary.keep import builders, derivation, template_ids, tokens_to_keep
from minigpts.vocabulary.trim import trim
from tests import tiny
from tests.unit.vocabulary.builders import KINDS, byte_level, sentencepiece_style

SEEN = tiny.sentences(40)
UNSEEN = [
    *(f"the {word} near the {word}" for word in tiny.WORDS),
    *tiny.sentences(99)[40:],
    *(f"{word}s, {word.upper()}?  {word}\n\n12 ä 肺🙂" for word in tiny.WORDS),
]


def load(definition: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(definition))


def choose(definition: dict[str, Any], texts: Sequence[str] = SEEN, threshold: float = 0.0) -> dict[int, str]:
    return tokens_to_keep(definition, count_tokens(load(definition), texts), threshold, special=set(), template=set())


@pytest.fixture(params=KINDS, name="definition")
def one_of_each_kind(request: pytest.FixtureRequest) -> dict[str, Any]:
    return KINDS[request.param]()


def test_text_whose_tokens_were_all_kept_splits_into_the_same_tokens(definition: dict[str, Any]) -> None:
    reasons = choose(definition)
    parent, child = load(definition), load(trim(definition, list(reasons)))
    assert child.get_vocab_size() == len(reasons) < parent.get_vocab_size()
    all_kept = [text for text in [*SEEN, *UNSEEN] if reasons.keys() >= set(parent.encode(text).ids)]
    assert len(all_kept) > len(SEEN)  # unseen text among them
    for text in all_kept:
        assert child.encode(text).tokens == parent.encode(text).tokens
        assert child.encode(text).offsets == parent.encode(text).offsets


def test_every_text_decodes_as_with_the_parents_tokenizer(definition: dict[str, Any]) -> None:
    parent, child = load(definition), load(trim(definition, list(choose(definition))))
    texts = [*SEEN, *UNSEEN, *random_strings(2000)]
    ids = [encoding.ids for encoding in child.encode_batch_fast(texts)]
    parent_ids = [encoding.ids for encoding in parent.encode_batch_fast(texts)]
    assert child.decode_batch(ids) == parent.decode_batch(parent_ids)
    assert child.token_to_id("<unk>") not in {token_id for line in ids for token_id in line}


def test_new_ids_follow_the_order_of_the_old_ones(definition: dict[str, Any]) -> None:
    kept = list(choose(definition))
    parent, child = load(definition), load(trim(definition, kept))
    assert kept == sorted(kept)
    assert [child.id_to_token(new) for new in range(len(kept))] == [parent.id_to_token(old) for old in kept]


def test_no_token_that_builds_others_could_go(definition: dict[str, Any]) -> None:
    reasons = choose(definition)
    builders = [token_id for token_id, reason in reasons.items() if reason == "builds"]
    assert builders
    child = by_merges(trim(definition, list(reasons)))
    others = [token for token, token_id in definition["model"]["vocab"].items() if reasons.get(token_id, "builds") != "builds"]
    whole = [token for token in others if _split(child, token) == [token]]
    for builder in builders:
        poorer = by_merges(trim(definition, sorted(reasons.keys() - {builder})))
        assert any(_split(poorer, token) != [token] for token in whole), f"{builder} builds nothing"


def by_merges(definition: dict[str, Any]) -> Tokenizer:
    """The tokenizer without looking words up whole."""
    return load({**definition, "model": {**definition["model"], "ignore_merges": False}})


def _split(tokenizer: Tokenizer, symbols: str) -> list[str]:
    return [token.value for token in tokenizer.model.tokenize(symbols)]


def test_every_kept_token_is_one_when_it_stands_alone(definition: dict[str, Any]) -> None:
    child = load(trim(definition, list(choose(definition))))
    mergeable = [token for token in child.get_vocab(with_added_tokens=False) if derivation(token, ranks(definition))]
    assert len(mergeable) > 50
    assert all(_split(child, token) == [token] for token in mergeable)


def test_one_derivation_needs_fewer_tokens_than_all_ancestors() -> None:
    definition = sentencepiece_style()
    reasons = choose(definition)
    tokens = {token for token, token_id in definition["model"]["vocab"].items() if token_id in reasons}
    ancestors = {part for merge in definition["model"]["merges"] if "".join(parts_of(merge)) in tokens for part in parts_of(merge)}
    assert ancestors - tokens


def test_reasons_name_the_first_that_holds() -> None:
    definition = byte_level()
    vocab = definition["model"]["vocab"]
    counts = np.zeros(len(vocab), dtype=np.int64)
    counts[vocab["Ġheart"]] = 1
    counts[vocab["<|im_end|>"]] = 1
    reasons = tokens_to_keep(definition, counts, 0.0, special=set(), template={vocab["Ġlung"], vocab["a"]})
    expected = {
        "Ġheart": "counted",
        "<|im_end|>": "counted",
        "<|im_start|>": "special",
        "a": "byte",
        "Ġlung": "template",
        "Ġh": "builds",
    }
    assert {token: reasons[vocab[token]] for token in expected} == expected
    assert sum(reason == "byte" for reason in reasons.values()) == 256
    assert vocab["Ġliver"] not in reasons


def test_threshold_is_a_share_and_what_lies_on_it_goes() -> None:
    definition = byte_level()
    vocab = definition["model"]["vocab"]
    counts = np.zeros(len(vocab), dtype=np.int64)
    for token, count in (("Ġheart", 4), ("Ġlung", 3), ("Ġand", 1)):
        counts[vocab[token]] = count
    for threshold, kept in ((0.0, {"Ġheart", "Ġlung", "Ġand"}), (0.125, {"Ġheart", "Ġlung"}), (0.375, {"Ġheart"})):
        reasons = tokens_to_keep(definition, counts, threshold, special=set(), template=set())
        assert {token for token in vocab if reasons.get(vocab[token]) == "counted"} == kept


def test_byte_fallback_keeps_the_bytes_and_the_space_sign_but_no_unseen_character() -> None:
    definition = sentencepiece_style()
    vocab = definition["model"]["vocab"]
    counts = np.zeros(len(vocab), dtype=np.int64)
    counts[vocab["l"]] = 1
    reasons = tokens_to_keep(definition, counts, 0.0, special=set(), template=set())
    assert reasons.keys() == {vocab[token] for token in ("<unk>", "<s>", "</s>", "l", "▁", *BYTE_TOKENS)}


def test_incomplete_byte_fallback_spells_and_gives_up_as_the_parents_does() -> None:
    definition = sentencepiece_style()
    del definition["model"]["vocab"]["<0xE8>"]  # of 肺, which would turn into <unk> without its own token
    parent, child = load(definition), load(trim(definition, kept := list(choose(definition, ["lung"]))))
    new_ids = {old: new for new, old in enumerate(kept)}
    for text in ["肺", "設é設設 心", "😀ß設", *random_strings(500)]:
        ids, parent_ids = child.encode(text).ids, parent.encode(text).ids
        assert child.decode(ids) == parent.decode(parent_ids)
        assert ids.count(new_ids[0]) == parent_ids.count(0)  # <unk>


@pytest.mark.parametrize("alphabet", ["ab", "abc"])
def test_a_derivation_is_what_the_library_does_whatever_the_ranks(alphabet: str) -> None:
    """Vocabularies of all strings up to four letters, with merges in a random order: ties, dead ends, several ways."""
    generator = random.Random(0)
    words = ["".join(letters) for length in range(1, 5) for letters in product(alphabet, repeat=length)]
    every = [(word[:cut], word[cut:]) for word in words for cut in range(1, len(word))]
    dead_ends = 0
    for _ in range(20):
        merges = generator.sample(every, generator.randint(len(every) // 3, len(every)))
        model = models.BPE({word: token_id for token_id, word in enumerate(words)}, merges)
        order = {merge: rank for rank, merge in enumerate(merges)}
        for word in words:
            passed = derivation(word, order)
            assert bool(passed) == ([token.value for token in model.tokenize(word)] == [word])
            assert passed == naive_derivation(word, order)
            assert builders(passed, order) == passed  # what it passes through needs nothing else
            dead_ends += not passed
    assert dead_ends


@pytest.mark.parametrize("seed", range(8))
def test_no_string_of_kept_tokens_splits_otherwise_whatever_the_ranks(seed: int) -> None:
    """Every string up to seven letters, under a random order of merges and a random choice of tokens."""
    generator = random.Random(seed)
    words = ["".join(letters) for length in range(1, 5) for letters in product("ab", repeat=length)]
    every = [[word[:cut], word[cut:]] for word in words for cut in range(1, len(word))]
    merges = generator.sample(every, generator.randint(len(every) // 2, len(every)))
    model = {"type": "BPE", "vocab": {word: token_id for token_id, word in enumerate(words)}, "merges": merges}
    definition = {"version": "1.0", "added_tokens": [], "decoder": {"type": "Fuse"}, "model": model}
    strings = ["".join(letters) for length in range(1, 8) for letters in product("ab", repeat=length)]
    parent = load(definition)
    compared = 0
    for _ in range(10):
        counts = np.array([generator.random() < 0.3 for _ in words], dtype=np.int64)
        counts[generator.randrange(len(words))] = 1
        kept = tokens_to_keep(definition, counts, 0.0, special=set(), template=set())
        child = load(trim(definition, list(kept)))
        for text in strings:
            tokens = parent.encode(text)
            if kept.keys() >= set(tokens.ids):
                assert child.encode(text).tokens == tokens.tokens
                compared += 1
            assert child.decode(child.encode(text).ids) == text
    assert compared > 100


def naive_derivation(token: str, order: dict[tuple[str, str], int]) -> set[str]:
    symbols, passed = list(token), set(token)
    while candidates := [(order[pair], place) for place, pair in enumerate(pairwise(symbols)) if pair in order]:
        _, place = min(candidates)
        symbols[place : place + 2] = ["".join(symbols[place : place + 2])]
        passed.add(symbols[place])
    return passed if len(symbols) == 1 else set()


def test_a_word_looked_up_whole_brings_no_builders() -> None:
    definition = KINDS["llama3"]()
    assert derivation("Ġlungs", ranks(definition)) == set()
    with_it, without = choose(definition, ["a lungs"]), choose(definition, ["a"])
    assert with_it.keys() - without.keys() == {definition["model"]["vocab"]["Ġlungs"]}
    assert load(trim(definition, list(with_it))).encode(" lungs", add_special_tokens=False).tokens == ["Ġlungs"]


@pytest.mark.parametrize("token", ["hear", "heart", "<|odd|>"])
def test_added_tokens_stay_inside_and_outside_of_the_models_vocabulary(token: str) -> None:
    tokenizer = load(byte_level())
    tokenizer.add_tokens([token])
    definition = json.loads(tokenizer.to_str())
    reasons = choose(definition, ["bone"])
    child = load(trim(definition, list(reasons)))
    assert reasons[tokenizer.token_to_id(token)] == "special"
    assert child.encode(f"a{token}b").tokens == tokenizer.encode(f"a{token}b").tokens


def test_merges_stay_in_order_in_both_spellings() -> None:
    pairs = byte_level()
    lines = {**pairs, "model": {**pairs["model"], "merges": [" ".join(merge) for merge in pairs["model"]["merges"]]}}
    kept = list(choose(pairs))
    assert kept == list(choose(lines))
    trimmed = trim(pairs, kept)["model"]["merges"]
    assert trim(lines, kept)["model"]["merges"] == [" ".join(merge) for merge in trimmed]
    assert trimmed == [merge for merge in pairs["model"]["merges"] if merge in trimmed] and 0 < len(trimmed) < len(
        pairs["model"]["merges"]
    )


def test_trimming_nothing_changes_nothing(definition: dict[str, Any]) -> None:
    before = json.dumps(definition)
    assert trim(definition, range(load(definition).get_vocab_size())) == definition
    assert json.dumps(definition) == before


def _template_tokens(folder: Path, template: str | None) -> set[str]:
    folder.mkdir(exist_ok=True)
    tiny.write_tokenizer(folder)
    (folder / "chat_template.jinja").unlink()
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    tokenizer = checkpoint.load_fast_tokenizer(folder)
    return {tokenizer.id_to_token(token_id) for token_id in template_ids(folder, tokenizer)}


def test_a_template_keeps_what_it_writes_and_what_it_could_write(tmp_path: Path) -> None:
    assert _template_tokens(tmp_path / "none", None) == set()
    assert {"<|im_start|>", "<|im_end|>", "Ċ"} <= _template_tokens(tmp_path / "plain", tiny.CHAT_TEMPLATE)
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}{{ ' heart' if tools }} the lung"
    assert {"Ġheart", "Ġlung"} <= _template_tokens(tmp_path / "refusing", refusing)
    nowhere_literal = _template_tokens(tmp_path / "joined", "{{ messages[0]['role'] }}{{ eos_token }}")
    tokenizer = checkpoint.load_fast_tokenizer(tmp_path / "joined")
    assert set(tokenizer.encode("system<|im_end|>").tokens) <= nowhere_literal


def test_what_transformers_renders_is_kept(tmp_path: Path) -> None:
    template = (
        "\n  {%- for m in messages %}\n{{- bos_token + m['role'] | upper }} the\n {{ m['content'] -}}\n  {% endfor %}\nbone\n"
    )
    kept = _template_tokens(tmp_path / "folder", template)
    stock = checkpoint.load_tokenizer(tmp_path / "folder")
    text = stock.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    assert "USER the" in text and set(stock.tokenize(text)) <= kept


def test_a_template_that_asks_for_the_date_keeps_the_words_of_every_day(tmp_path: Path) -> None:
    template = "{% if strftime_now is defined %}Today: {{ strftime_now('%A %d %B') }}{% endif %}"
    days = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April May June July August September"
    kept = _template_tokens(tmp_path / "folder", template)
    tokens = checkpoint.load_fast_tokenizer(tmp_path / "folder").encode(f" {days} October November December 0123456789").tokens
    assert set(tokens) <= kept
