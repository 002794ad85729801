"""The beginning of a corpus, with its groups, chats and questions, and splits that suit its size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from minigpts.corpus.document import Corpus, Document
from minigpts.corpus.settings import Settings

DOCUMENTS = 200  # at least, where there are as many,
BYTES_A_TOKEN = 24  # with this many bytes for each token of the longest sequence: what is packed of a split fills a few,
BYTES = 1 << 20  # and no more once they have this many
OF_GROUP = 10  # documents at most, so that a corpus in the order of its groups shows several
GROUPS = DOCUMENTS // OF_GROUP
READ = 5000  # documents in search of groups
SHARE = 0.2  # of the sample, for each of the three splits that are held back
SPLIT_BYTES = 8000  # of each, at most, but for the calibration text's sequences,
FEW, FOR_QUESTIONS = 2, 8  # and for so many of the largest document; questions are made from several
QUESTIONS = {"validation": 4, "test": 8}


@dataclass
class Sample:
    """Takes a corpus's beginning, and keeps what a prediction needs of it."""

    sequence_tokens: int  # of the longest sequence that is packed of a split, or of all in one step of tuning
    whole: bool = field(default=False, init=False)  # whether the corpus has no more documents
    num_bytes: int = field(default=0, init=False)  # of the documents taken
    num_documents: int = field(default=0, init=False)
    num_questions: int = field(default=0, init=False)  # that the corpus has
    corpus_bytes: int | None = field(default=None, init=False)  # of its files or documents; None: not known without reading it
    regrouped: int | None = field(default=None, init=False)  # groups found, where they were too few to split

    def take(self, corpus: Corpus, settings: Settings) -> tuple[Corpus, Settings]:
        """The corpus's first documents, and the settings for them: the user's own but for sizes.

        Nothing behind them is read. A corpus with no more is split as it will be.
        """
        documents = list(self._documents(iter(corpus.documents)))
        groups = {document.group for document in documents}
        self.num_documents, self.num_bytes = len(documents), sum(map(_size, documents))
        self.num_questions, self.corpus_bytes = len(corpus.questions), self.num_bytes if self.whole else _corpus_bytes(corpus)
        fewer: dict[str, Any] = {f"{name}_questions": min(settings.max_questions[name], most) for name, most in QUESTIONS.items()}
        if not self.whole:
            largest = max(_size(document) for document in documents)
            several = largest * (FOR_QUESTIONS if settings.make_questions else FEW)
            packed = {"calibration": self.sequence_tokens * BYTES_A_TOKEN // 2}
            for name, cap in settings.max_bytes.items():
                fits = max(SPLIT_BYTES, several, packed.get(name, 0))
                fewer[f"{name}_bytes"] = fits if cap is None else min(cap, fits)
            fewer |= dict.fromkeys((f"{name}_share" for name in settings.shares), SHARE) | {"max_leakage": 1.0}
            if len(groups) < GROUPS:
                self.regrouped = len(groups)
                documents = [replace(document, group=str(number)) for number, document in enumerate(documents)]
        questions = [question for question in corpus.questions if question.group is None or question.group in groups]
        if self.regrouped:
            questions = [replace(question, group=None) for question in questions]
        dialogues = [(chat, group) for chat, group in corpus.dialogues if group in groups]
        return replace(corpus, documents=documents, questions=questions, dialogues=dialogues), replace(settings, **fewer)

    def _documents(self, documents: Iterator[Document]) -> Iterator[Document]:
        least, of_group = self.sequence_tokens * BYTES_A_TOKEN, Counter[str]()
        number = taken = size = 0
        for number, document in enumerate(documents, start=1):
            if of_group[document.group] < OF_GROUP:
                of_group[document.group] += 1
                taken, size = taken + 1, size + _size(document)
                yield document
            enough, much = taken >= DOCUMENTS and size >= least, size >= BYTES and len(of_group) >= GROUPS
            if enough or much or number == READ:
                return
        self.whole = True


def _corpus_bytes(corpus: Corpus) -> int | None:
    if isinstance(corpus.documents, list):
        return sum(map(_size, corpus.documents))
    files = getattr(corpus.documents, "files", [])
    return sum(file.stat().st_size for file in files) or None


def _size(document: Document) -> int:
    return len(document.text.encode())
