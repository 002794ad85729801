"""What the data set is made from, and what its splits should look like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from minigpts.params import require

CAPPED = ("calibration", "validation", "test")
TESTED = ("validation", "test")


@dataclass(frozen=True)
class Settings:
    """The ``dataset`` section of params.yaml."""

    domain: str  # a domain of the registry, used where source is null
    source: str | None  # the user's own text: a file or a folder
    text_column: str  # the column that holds the text
    template: str | None  # columns in text of their own, in place of text_column
    group_column: str | None  # rows with the same value in this column share a split
    questions: str | None  # the user's own questions; they replace the domain's
    make_questions: Literal["completion", "translation"] | None  # from the held-out text, where there are no questions
    keep_terms: str | None  # a file of terms; every token they need is kept
    general_text: str | None  # the user's own general text, for finetune.general: text, a file or a folder
    max_leakage: float  # maximum share of the held-out text's runs of words, and of the questions', found in the training text
    seed: int  # of the splits, the orders and the choice of questions
    calibration_share: float  # shares of the documents; the rest trains
    validation_share: float
    test_share: float
    calibration_bytes: int | None  # maximum size in UTF-8 bytes (None: unlimited); documents beyond it are discarded
    validation_bytes: int | None
    test_bytes: int | None
    validation_questions: int  # at most
    test_questions: int

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in CAPPED:
            share, cap = self.shares[name], self.max_bytes[name]
            require(0 < share < 1, f"dataset.{name}_share must lie between 0 and 1", share)
            require(cap is None or cap >= 1, f"dataset.{name}_bytes must be ≥ 1 or null", cap)
        for name in ("validation_questions", "test_questions", "seed"):
            require(getattr(self, name) >= 0, f"dataset.{name} must be ≥ 0", getattr(self, name))
        require(0 <= self.max_leakage <= 1, "dataset.max_leakage must lie between 0 and 1", self.max_leakage)
        total = sum(self.shares.values())
        require(total < 1, "dataset: calibration_share + validation_share + test_share must be below 1", total)

    @property
    def name(self) -> str:
        """What to call the data: the domain, or the file or folder it comes from."""
        return self.domain if self.source is None else PurePath(self.source).stem

    @property
    def template_text(self) -> str | None:
        """The template with its line breaks, which ``-S`` can only pass as ``\\n``."""
        return None if self.template is None else self.template.replace("\\n", "\n")

    @property
    def shares(self) -> dict[str, float]:
        """The share of the documents for calibration, validation and test."""
        return {name: getattr(self, f"{name}_share") for name in CAPPED}

    @property
    def max_bytes(self) -> dict[str, int | None]:
        """The maximum size of the same splits, UTF-8 bytes; None: unlimited."""
        return {name: getattr(self, f"{name}_bytes") for name in CAPPED}

    @property
    def max_questions(self) -> dict[str, int]:
        """The maximum number of questions for validation and test."""
        return {name: getattr(self, f"{name}_questions") for name in TESTED}
