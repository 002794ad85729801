"""A sample reads the beginning of a corpus, and shows several of its groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from minigpts.corpus.document import Corpus, Document, Question
from minigpts.corpus.settings import Settings
from minigpts.params import read
from minigpts.rehearsal import sample
from minigpts.rehearsal.sample import Sample

SETTINGS = read(Path(__file__).parents[3] / "params.yaml", Settings, "dataset")


class Endless:
    """Documents of groups that are so large, for ever."""

    def __init__(self, group_size: int) -> None:
        self.group_size, self.read = group_size, 0

    def __iter__(self) -> Iterator[Document]:
        while True:
            number = self.read // self.group_size
            self.read += 1
            yield Document(f"document {self.read} of group {number}, with some words behind", str(number), "local")


class Long:
    """The same documents, each of so many bytes."""

    SIZE = 6000

    def __init__(self, documents: Endless) -> None:
        self.documents = documents

    def __iter__(self) -> Iterator[Document]:
        return (replace(document, text=document.text.ljust(self.SIZE, "x")) for document in self.documents)


def questions() -> list[Question]:
    return [Question(group, "?", ("a", "b"), 0, group, "") for group in ("0", "19", "none of these")]


@pytest.mark.parametrize(("size", "most"), [(1, 200), (50, 1000)])
def test_it_stops_once_it_has_enough_documents_of_enough_groups(size, most):
    endless, taker = Endless(size), Sample(16)
    corpus, settings = taker.take(Corpus(endless, questions()), SETTINGS)
    assert len(corpus.documents) == sample.DOCUMENTS
    assert endless.read <= most
    groups = Counter(document.group for document in corpus.documents)
    assert len(groups) >= sample.GROUPS
    assert max(groups.values()) <= sample.OF_GROUP
    assert [question.id for question in corpus.questions] == ["0", "19"]
    assert settings.shares == dict.fromkeys(SETTINGS.shares, sample.SHARE)
    assert (settings.text_column, settings.seed) == (SETTINGS.text_column, SETTINGS.seed)
    assert (taker.whole, taker.regrouped) == (False, None)


def test_groups_too_large_to_show_several_are_set_aside():
    taker, endless = Sample(16), Endless(10**6)
    corpus, _ = taker.take(Corpus(endless, questions()), SETTINGS)
    assert endless.read == sample.READ
    assert taker.regrouped == 1
    assert len({document.group for document in corpus.documents}) == len(corpus.documents) == sample.OF_GROUP
    assert [question.group for question in corpus.questions] == [None]


def test_a_small_corpus_is_split_as_the_run_will_split_it():
    documents = [Document(f"document {number}", str(number % 7), "local") for number in range(60)]
    taker = Sample(16)
    corpus, settings = taker.take(Corpus(documents, []), SETTINGS)
    assert corpus.documents == documents
    assert taker.whole
    assert (settings.shares, settings.max_bytes, settings.max_leakage) == (
        SETTINGS.shares,
        SETTINGS.max_bytes,
        SETTINGS.max_leakage,
    )


def test_questions_are_made_from_several_documents():
    documents = Endless(1)
    for number, settings in ((sample.FEW, SETTINGS), (sample.FOR_QUESTIONS, replace(SETTINGS, make_questions="completion"))):
        found = Sample(16).take(Corpus(Long(documents), []), settings)[1]
        assert found.validation_bytes == min(number * Long.SIZE, SETTINGS.validation_bytes)


def test_a_longer_sequence_takes_more_text():
    taker = Sample(4096)
    corpus, settings = taker.take(Corpus(Endless(1), []), SETTINGS)
    assert sum(len(document.text) for document in corpus.documents) >= 4096 * sample.BYTES_A_TOKEN
    assert settings.calibration_bytes == 4096 * sample.BYTES_A_TOKEN // 2
