"""The promise of trimming, on the way that the stage takes: count, choose, cut."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from benchmarks.tokenizer_trimming import random_strings
from minigpts.vocabulary.counts import count_tokens
from minigpts.vocabulary.keep import BYTE_TOKENS, derivation, tokens_to_keep
from minigpts.vocabulary.trim import parts_of, trim
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
    texts = [*SEEN, *UNSEEN, *random_strings(5000)]
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
    child = load(trim(definition, list(reasons)))
    counted = [token for token, token_id in definition["model"]["vocab"].items() if reasons.get(token_id) == "counted"]
    whole = [token for token in counted if _split(child, token) == [token]]
    for builder in builders:
        poorer = load(
            trim({**definition, "model": {**definition["model"], "ignore_merges": False}}, sorted(reasons.keys() - {builder}))
        )
        assert any(_split(poorer, token) != [token] for token in whole), f"{builder} builds nothing"


def _split(tokenizer: Tokenizer, symbols: str) -> list[str]:
    return [token.value for token in tokenizer.model.tokenize(symbols)]


def test_every_kept_token_is_one_when_it_stands_alone(definition: dict[str, Any]) -> None:
    ranks = {parts_of(merge): rank for rank, merge in enumerate(definition["model"]["merges"])}
    child = load(trim(definition, list(choose(definition))))
    mergeable = [token for token in child.get_vocab(with_added_tokens=False) if derivation(token, ranks)]
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


def test_incomplete_byte_fallback_keeps_every_character() -> None:
    definition = sentencepiece_style()
    del definition["model"]["vocab"]["<0xE8>"]  # of 肺, which would turn into <unk> without its own token
    assert definition["model"]["vocab"]["肺"] in choose(definition, ["lung"])


def test_a_word_looked_up_whole_brings_no_builders() -> None:
    definition = KINDS["ignore_merges"]()
    ranks = {parts_of(merge): rank for rank, merge in enumerate(definition["model"]["merges"])}
    assert derivation("Ġlungs", ranks) == set()
    with_it, without = choose(definition, ["a lungs"]), choose(definition, ["a"])
    assert with_it.keys() - without.keys() == {definition["model"]["vocab"]["Ġlungs"]}
    assert load(trim(definition, list(with_it))).encode(" lungs").tokens == ["Ġlungs"]


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
    assert trim(definition, range(len(definition["model"]["vocab"]))) == definition
    assert json.dumps(definition) == before
