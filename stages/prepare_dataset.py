"""Build or read the domain's text, split it so that nothing leaks, and write text, questions and what the checks found."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from minigpts import artifacts, params
from minigpts.corpus.document import Corpus
from minigpts.errors import UserError, exit_cleanly


@dataclass(frozen=True)
class Params:
    """The ``dataset`` section."""

    domain: str  # a domain of the registry, used where source is null
    source: str | None  # the user's own text: a file or a folder
    text_column: str  # the column that holds the text
    template: str | None  # columns in text of their own, in place of text_column
    group_column: str | None  # rows with one value in it land in one split
    questions: str | None  # the user's own questions; they replace the domain's
    make_questions: Literal["completion", "translation"] | None  # out of the held-out text, where there are none
    keep_terms: str | None  # a file of terms whose tokens all stay
    max_leakage: float  # share of the held-out text's runs of words, and of the questions', that the training text may have
    seed: int  # of the splits, the orders and the choice of questions
    calibration_share: float  # shares of the documents; the rest trains
    validation_share: float
    test_share: float
    calibration_bytes: int | None  # caps on the text of a split, UTF-8
    validation_bytes: int | None
    test_bytes: int | None
    validation_questions: int  # at most
    test_questions: int

    @property
    def template_text(self) -> str | None:
        """The template with its line breaks, which ``-S`` can only pass as ``\\n``."""
        return None if self.template is None else self.template.replace("\\n", "\n")

    def __post_init__(self) -> None:
        for name in ("calibration", "validation", "test"):
            share, cap = getattr(self, f"{name}_share"), getattr(self, f"{name}_bytes")
            params.require(0 < share < 1, f"dataset.{name}_share must lie between 0 and 1", share)
            params.require(cap is None or cap >= 1, f"dataset.{name}_bytes must be ≥ 1 or null", cap)
        for name in ("validation_questions", "test_questions", "seed"):
            params.require(getattr(self, name) >= 0, f"dataset.{name} must be ≥ 0", getattr(self, name))
        params.require(0 <= self.max_leakage <= 1, "dataset.max_leakage must lie between 0 and 1", self.max_leakage)
        total = self.calibration_share + self.validation_share + self.test_share
        params.require(total < 1, "dataset: calibration_share + validation_share + test_share must be below 1", total)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the corpus, prepare it, write the four tables, the questions, the terms to keep and the metrics."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the four parquet files, mcq.jsonl, keep_terms.json")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for counts, sizes and the leak check")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: %(default)s")
    args = parser.parse_args(argv)
    settings = params.read(args.params, Params, "dataset")

    from minigpts.corpus.prepare import Shape, prepare
    from minigpts.corpus.readers.term_lists import read_terms

    shape = Shape(
        shares={name: getattr(settings, f"{name}_share") for name in ("calibration", "validation", "test")},
        max_bytes={name: getattr(settings, f"{name}_bytes") for name in ("calibration", "validation", "test")},
        max_questions={name: getattr(settings, f"{name}_questions") for name in ("validation", "test")},
        max_leakage=settings.max_leakage,
        make_questions=settings.make_questions,
        template=settings.template_text,
        seed=settings.seed,
    )
    terms = [] if settings.keep_terms is None else read_terms(Path(settings.keep_terms))
    scratch = args.out / ".documents.parquet"
    try:
        prepared = prepare(_corpus(settings), shape, scratch)
        prepared.write(args.out)
    finally:
        scratch.unlink(missing_ok=True)
    artifacts.write_json(args.out / "keep_terms.json", terms)
    artifacts.write_json(args.metrics, prepared.metrics)
    print(prepared.summary())


def _corpus(settings: Params) -> Corpus:
    from minigpts.corpus.domains.registry import DOMAINS
    from minigpts.corpus.readers import question_files, text_files

    if settings.source is not None:
        columns = text_files.Columns(settings.text_column, settings.template_text, settings.group_column)
        corpus = text_files.read_corpus(Path(settings.source), columns)
    elif settings.domain in DOMAINS:
        corpus = DOMAINS[settings.domain]()
    else:
        raise UserError(f"params.yaml: dataset.domain must be one of {', '.join(DOMAINS)}, got {settings.domain!r}")
    if settings.questions is not None:
        dropped: Counter[str] = Counter()
        corpus = Corpus(corpus.documents, question_files.read_questions(Path(settings.questions), dropped), corpus.sources, dropped)
    return corpus


if __name__ == "__main__":
    exit_cleanly(main)
