"""A glossary's terms stay whole wherever they stand, and a text's words that don't are found."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer

from minigpts.vocabulary.counts import count_tokens
from minigpts.vocabulary.keep import tokens_to_keep
from minigpts.vocabulary.terms import spelled_longer, spellings, token_ids, warning
from minigpts.vocabulary.trim import trim
from tests.unit.vocabulary.builders import KINDS

TERMS = ["kidney", "Liver", "tooth abnormality", "user-assistant"]
TEXT = ["the heart and the heart near the heart"] * 3


@pytest.fixture(params=KINDS, name="definition")
def one_of_each_kind(request: pytest.FixtureRequest) -> dict[str, Any]:
    return KINDS[request.param]()


def load(definition: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(definition))


def cut(definition: dict[str, Any], terms: list[str]) -> tuple[dict[int, str], Tokenizer]:
    parent = load(definition)
    counts = count_tokens(parent, TEXT)
    reasons = tokens_to_keep(definition, counts, 0.0, special=set(), template=set(), glossary=token_ids(parent, terms))
    return reasons, load(trim(definition, list(reasons)))


def test_terms_encode_as_before_in_every_place(definition: dict[str, Any]) -> None:
    parent, (reasons, child), (_, without) = load(definition), cut(definition, TERMS), cut(definition, [])
    places = [text for term in TERMS for text in spellings(term)]
    assert {"kidney", "\nKidney", "a Liver a", "a (tooth abnormality) a", "a user-assistant."} <= set(places)
    places += [f"the heart near the {term} and the heart" for term in TERMS]
    assert [child.encode(text).tokens for text in places] == [parent.encode(text).tokens for text in places]
    worse = [text for text in places if without.encode(text).tokens != parent.encode(text).tokens]
    assert len(worse) > len(places) / 2
    assert "glossary" in reasons.values()


def test_only_what_nothing_else_keeps_is_booked_under_the_glossary(definition: dict[str, Any]) -> None:
    (with_terms, _), (without, _) = cut(definition, ["kidney", "heart"]), cut(definition, [])
    assert {token_id for token_id, reason in with_terms.items() if reason == "counted"} == {
        token_id for token_id, reason in without.items() if reason == "counted"
    }
    added = {with_terms[token_id] for token_id in with_terms.keys() - without.keys()}
    assert "glossary" in added <= {"glossary", "builds"}


def test_words_that_get_longer_are_counted_by_document(definition: dict[str, Any]) -> None:
    parent, (_, child) = load(definition), cut(definition, ["kidney"])
    texts = ["the kidney near the liver and the liver", "the heart, the liver.", "the bone of the heart", "心 of the heart"]
    longer = spelled_longer(parent, child, texts)
    assert longer[0] == ("liver", 2)
    assert ("bone", 1) in longer
    assert not {"kidney", "heart", "the"} & dict(longer).keys()
    assert spelled_longer(parent, parent, texts) == []


def test_the_warning_names_the_first_few() -> None:
    assert "2 words" in warning([("liver", 3), ("bone", 1)]) and "liver (3), bone (1)." in warning([("liver", 3), ("bone", 1)])
    many = warning([(f"word{number}", 1) for number in range(1000)])
    assert "1,000 words" in many and "word7 (1), …" in many and "word8" not in many and "\n" not in many
