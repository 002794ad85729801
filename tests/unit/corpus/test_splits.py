"""Splits keep groups whole and come out close to the shares asked for."""

from __future__ import annotations

import pytest

from minigpts.corpus import splits
from minigpts.corpus.document import Document
from minigpts.errors import UserError

SHARES = {"calibration": 0.1, "validation": 0.05, "test": 0.15}


def corpus(sizes: list[int], source: str = "a") -> list[Document]:
    return [Document(f"{source} {g} {i}", f"{source}{g}", source) for g, size in enumerate(sizes) for i in range(size)]


def test_groups_stay_whole_and_shares_are_close_in_each_source():
    documents = corpus([700] + [1 + g % 9 for g in range(300)]) + corpus([2] * 300, "b")  # one group is a third of its source
    parts = splits.split(documents, SHARES, seed=0)
    assert sorted(d.text for items in parts.values() for d in items) == sorted(d.text for d in documents)
    groups = [{d.group for d in items} for items in parts.values()]
    assert sum(len(g) for g in groups) == len(set().union(*groups))
    for source in ("a", "b"):
        total = sum(d.source == source for d in documents)
        for name, share in SHARES.items():
            assert sum(d.source == source for d in parts[name]) / total == pytest.approx(share, abs=0.01)


def test_the_seed_alone_decides():
    documents = corpus([3] * 100)
    assert splits.split(documents, SHARES, 1) == splits.split(documents, SHARES, 1)
    assert splits.split(documents, SHARES, 1) != splits.split(documents, SHARES, 2)


@pytest.mark.parametrize("sizes", [[], [5], [1, 1]])
def test_too_few_groups_are_refused(sizes):
    with pytest.raises(UserError, match="too few"):
        splits.split(corpus(sizes) or [], SHARES, 0)


def test_copies_go_and_the_first_stays():
    texts = ["The heart.", "the  HEART", "A lung."]
    kept = splits.without_copies([Document(text, "g", "s") for text in texts])
    assert [document.text for document in kept] == ["The heart.", "A lung."]


def test_spread_covers_every_group_before_it_returns_to_one():
    order = splits.spread(corpus([50, 2, 1]), seed=0)
    assert {document.group for document in order[:3]} == {"a0", "a1", "a2"}
    assert {document.group for document in order[3:5]} == {"a0", "a1"}
    assert len(order) == 53


def test_capped_takes_whole_documents_by_their_bytes():
    documents = [Document("é" * 3, str(i), "s") for i in range(5)]  # six bytes each
    assert len(splits.capped(documents, 17)) == 2
    assert splits.capped(documents, None) == documents
