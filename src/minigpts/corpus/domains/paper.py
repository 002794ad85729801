"""The paper's five domains, from the public sources that its own code reads, for a machine with a network.

The sources are those of github.com/tval2/contextual-pruning, ``dataset.py``. No hub was in reach when this was written (November
2026): the entries were gathered from that code, from stored pages of the hub and from public code that reads the same data.
A revision is a commit where one was found. Where it is a branch, none was, and it may move: the metrics then say at which commit
the data was read, and of a file at an address its sha256.
"""

from __future__ import annotations

import csv
import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from minigpts.corpus.document import Corpus, Document, Question
from minigpts.corpus.readers import hub_datasets, question_files, question_rows, tables, text_files

GITHUB = "https://raw.githubusercontent.com"
PAPER_QUESTIONS = f"{GITHUB}/tval2/contextual-pruning/75013869dafcccc63f077f40924a07dc1dba6278/question_datasets"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class HubTable:
    """A table on the hub."""

    repo_id: str  # owner/name
    revision: str  # a commit; a branch may move
    names: Sequence[str | None] = (None,)  # configurations, one after the other; None: its only one
    split: str = "train"
    data_files: Sequence[str] = ()  # read instead of configurations: for a repository with a loading script, which is never run

    def pinned(self) -> HubTable:
        """The same at a commit. Raises UserError as :func:`hub_datasets.commit`."""
        return replace(self, revision=hub_datasets.commit(self.repo_id, self.revision))

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Its rows, as :func:`hub_datasets.rows`."""
        for name in self.names:
            yield from hub_datasets.rows(self.repo_id, self.revision, name, self.split, self.data_files)

    def facts(self) -> dict[str, str]:
        """Where it is, for the metrics."""
        return {"repository": self.repo_id, "revision": self.revision}


@dataclass(frozen=True)
class WebTable:
    """A csv file at an address."""

    address: str  # on a branch it may move
    reader: Mapping[str, Any] = field(default_factory=dict)  # the reader's options
    content: bytes | None = None  # what was there, once fetched

    def pinned(self) -> WebTable:
        """The same with its content, which every reading then is of. Raises UserError as :func:`hub_datasets.read`."""
        return replace(self, content=hub_datasets.read(self.address))

    def rows(self) -> Iterator[tuple[str, Row]]:
        """The rows of its content, as :func:`hub_datasets.file_rows`."""
        assert self.content is not None, "pin it first"
        with _written(self.address, self.content) as path:
            yield from hub_datasets.file_rows(str(path), self.address, **self.reader)

    def facts(self) -> dict[str, str]:
        """Where it is and what was read, for the metrics."""
        assert self.content is not None, "pin it first"
        return {"address": self.address, "sha256": hashlib.sha256(self.content).hexdigest()}


@dataclass(frozen=True)
class PaperDomain:
    """A domain's text and questions, and their sources."""

    title: str
    table: HubTable | WebTable
    columns: text_files.Columns
    licence: str  # of the text
    paper_questions: str | None = None  # the address of a file in the paper's layout
    mmlu: Sequence[str] = ()  # subjects of MMLU, more questions
    change: Callable[[Row], Row] = dict  # of a row, before its columns are taken

    def corpus(self) -> Corpus:
        """The domain, its text streamed on each iteration. Raises UserError when a part of it can't be fetched."""
        table = self.table.pinned()
        sources = {self.title: {"name": self.title, "licence": self.licence, **table.facts()}}
        dropped: Counter[str] = Counter()
        found: list[Question] = []
        if self.paper_questions is not None:
            asked = WebTable(self.paper_questions).pinned()
            with _written(asked.address, asked.content or b"") as path:
                found += question_files.read_questions(path, dropped)
            sources["questions of the paper"] = {"licence": "MIT", **asked.facts()}
        if self.mmlu:
            mmlu = replace(MMLU, names=self.mmlu).pinned()
            found += question_rows.from_rows(_with_distinct_choices(mmlu.rows(), dropped), MMLU_COLUMNS, dropped)
            sources["mmlu"] = {"licence": "MIT", **mmlu.facts()}

        def documents(dropped: Counter[str]) -> Iterator[Document]:
            rows = ((where, self.change(row)) for where, row in table.rows())
            return text_files.documents(rows, self.columns, self.title, dropped)

        return Corpus(Documents(documents), found, sources, dropped)


class Documents:
    """Documents that are made anew on each iteration."""

    def __init__(self, make: Callable[[Counter[str]], Iterator[Document]]) -> None:
        """``make`` yields them and counts what it leaves out."""
        self._make = make
        self.dropped: Counter[str] = Counter()  # what the last iteration left out, by reason

    def __iter__(self) -> Iterator[Document]:
        self.dropped = Counter()
        return self._make(self.dropped)


@contextmanager
def _written(address: str, content: bytes) -> Iterator[Path]:
    """The content in a file of the address's name, for as long as it is read."""
    with tempfile.TemporaryDirectory(prefix="minigpts-") as folder:
        path = Path(folder, address.rpartition("/")[2])
        path.write_bytes(content)
        yield path


def _with_distinct_choices(rows: Iterator[tuple[str, Row]], dropped: Counter[str]) -> Iterator[tuple[str, Row]]:
    """The rows without MMLU's two or three questions that have a choice twice."""
    for where, row in rows:
        choices = [choice.strip() for choice in row["choices"]]
        if len(set(choices)) == len(choices):
            yield where, row
        else:
            dropped["questions with equal choices"] += 1


def _unmasked(row: Row) -> Row:
    """The row with the term that LegalLAMA hides in its text put back."""
    sentences, term = row.get("masked_sentences"), row.get("obj_label")
    return {**row, "text": sentences[0].replace("<mask>", term)} if sentences and term else row


def _unquoted(row: Row) -> Row:
    return {**row, "text": tables.unquoted(row["text"])} if isinstance(row["text"], str) else row


MMLU = HubTable("cais/mmlu", "c30699e8356da336a370243923dbaf21066bb9fe", split="test")
MMLU_COLUMNS = {"question": "question", "choices": "choices", "answer": "answer"}

PAPER_DOMAINS = {
    # 15.5k rows "### Instruction: … ### Response: …". No commit was found.
    "medquad": PaperDomain(
        title="MedQuAD",
        table=HubTable("Laurent1/MedQuad-MedicalQnADataset_128tokens_max", "main"),
        columns=text_files.Columns("text"),
        licence="CC-BY-4.0 for MedQuAD, https://github.com/abachaa/MedQuAD; of this edition of it none was found",
        paper_questions=f"{PAPER_QUESTIONS}/rad_onc_phys_dataset.json",
        mmlu=("anatomy", "clinical_knowledge", "college_medicine", "medical_genetics", "professional_medicine"),
    ),
    # 11.8k rows; main has been at this commit since July 2023. The repository has a loading script, so its files are read one by
    # one. Their columns are those of the LAMA probes, seen in code that reads us_terms.jsonl; not seen of the two others.
    "legal": PaperDomain(
        title="LegalLAMA",
        table=HubTable(
            "lexlms/legal_lama",
            "e62bb3d77ac4797e86ad9779ced416a33db0fe96",
            data_files=("us_terms.jsonl", "us_crimes.jsonl", "contract_sections.jsonl"),
        ),
        columns=text_files.Columns("text"),
        licence="CC-BY-NC-SA-4.0",
        mmlu=("professional_law", "international_law", "jurisprudence"),  # the paper has no legal questions
        change=_unmasked,
    ),
    # 6.3k articles; the paper drops the rows without a text. No commit was found.
    "economics": PaperDomain(
        title="economics articles",
        table=WebTable(f"{GITHUB}/RiksEddy/tinymlFP/main/economics_text_dataset_8500.csv", {"usecols": ["Text"]}),
        columns=text_files.Columns("Text"),
        licence="none stated; the articles are their publishers'",
        paper_questions=f"{PAPER_QUESTIONS}/basic_economics_dataset.json",
        mmlu=("econometrics", "high_school_macroeconomics", "high_school_microeconomics"),
    ),
    # 34.4k lines of dialogue, tab-separated, in the paper's seventh of nine columns. No commit was found. A quote is text, since
    # lines of dialogue begin with some; read by csv's rules such a line would take the rows after it along.
    "skyrim": PaperDomain(
        title="Skyrim transcript",
        table=WebTable(
            f"{GITHUB}/jd7h/sentiment-lexicon-skyrim/master/data/skyrim_dialogue.csv",
            {"sep": "\t", "quoting": csv.QUOTE_NONE, "header": 0, "names": [*"abcdef", "text", *"hi"], "usecols": ["text"]},
        ),
        columns=text_files.Columns("text"),
        licence="none stated; the text is Bethesda Softworks'",
        change=_unquoted,
        paper_questions=f"{PAPER_QUESTIONS}/skyrim_question_dataset.json",
    ),
    # 311k pairs. The columns are those that its author's own code reads. No commit was found.
    "translation": PaperDomain(
        title="COCT English-Taiwanese pairs",
        table=HubTable("zetavg/coct-en-zh-tw-translations-twp-300k", "main"),
        columns=text_files.Columns("text", template="English: {en}\nTaiwanese Mandarin: {ch}"),
        licence="none found; see https://huggingface.co/datasets/zetavg/coct-en-zh-tw-translations-twp-300k",
        paper_questions=f"{PAPER_QUESTIONS}/en_tw_translation_dataset.json",
    ),
}
