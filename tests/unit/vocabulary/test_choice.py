"""With a glossary, sizes and plans are still exact."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from minigpts import artifacts
from minigpts.model import checkpoint
from minigpts.vocabulary.choice import VocabularyChoice
from minigpts.vocabulary.terms import spellings
from stages import measure_damage, plan_budget, prune_embeddings
from tests.unit.budget.project import Project

TERMS = ["assistant", "system user", "Abnormality"]


class WithTerms(Project):
    """A project with a glossary."""

    def run(self, stage: Any, *names: str) -> None:
        flags = ["--keep-terms", str(self.terms)] if stage in (measure_damage, plan_budget, prune_embeddings) else []
        super().run(SimpleNamespace(main=lambda argv: stage.main([*argv, *flags])), *names)

    @property
    def terms(self) -> Path:
        path = self.folder / "keep_terms.json"
        path.write_text(json.dumps(TERMS))
        return path


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> WithTerms:
    return WithTerms(tmp_path_factory.mktemp("terms"))


def test_sizes_count_the_glossary(project: WithTerms) -> None:
    config, counts = checkpoint.load_config(project.base), project.folder / "counts.parquet"
    choice, without = (VocabularyChoice.of(project.base, config, counts, terms) for terms in (project.terms, None))
    for number in range(0, len(choice.sizes), 7):
        assert len(choice.most_frequent(number)) == choice.sizes[number] >= without.sizes[number]
    assert choice.sizes[0] > without.sizes[0]
    assert choice.sizes[-1] == without.sizes[-1]
    assert choice.glossary <= choice.above(0.5 * without.counts.max() / without.counts.sum()).keys()


def test_the_plan_keeps_the_glossary_and_its_size_is_exact(project: WithTerms) -> None:
    planned = project.plan({"target_size_reduction": 0.5})
    folder = project.cut()
    assert checkpoint.sizes(folder)["num_parameters"] == planned["num_parameters"] <= project.sizes["num_parameters"] * 0.5
    parent, child = (checkpoint.load_fast_tokenizer(path) for path in (project.base, folder))
    for text in (text for term in TERMS for text in spellings(term)):
        assert child.encode(text).tokens == parent.encode(text).tokens
    reasons = artifacts.read_table(folder / "pruned_tokens.parquet", ["reason"])["reason"]
    assert "glossary" in reasons
