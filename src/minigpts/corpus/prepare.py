"""Turns a corpus into four splits and their questions.

In this order: remove copies, split by group, remove near duplicates, cap the sizes, check for leaks, count. The corpus is read
once, onto disk, and its training side once more for the leaks. Memory holds some 200 bytes a document and the held-out splits,
which the caps keep small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from minigpts import artifacts
from minigpts.corpus import completion, leaks, splits
from minigpts.corpus.document import Corpus, Document, Question
from minigpts.corpus.duplicates import Duplicates
from minigpts.corpus.questions import assign, balanced
from minigpts.corpus.readers.chat_rows import Chat, LeftOut
from minigpts.corpus.settings import TESTED, Settings
from minigpts.corpus.store import Store
from minigpts.corpus.words import words_of
from minigpts.errors import UserError
from minigpts.prefetch import ahead

if TYPE_CHECKING:
    import pyarrow

    from minigpts.corpus.readers.text_files import Render

MINIMUM_BYTES = 500  # of text in each split: less than that measures nothing
OUT_COLUMNS = ("text", "group")
DIALOGUES = "dialogues"  # what their source is called
EXAMPLES = 3  # chats in the metrics, for the page to show what the child learns to say,
EXAMPLE_CHARACTERS = 1500  # and how much of each

Numbers = NDArray[np.intp]


@dataclass(frozen=True)
class Prepared:
    """What the stage writes."""

    store: Store
    train: NDArray[np.bool_]  # (documents,): whether each of the corpus's documents is for training
    dialogues: list[Document]  # for training, too
    documents: dict[str, list[Document]]  # of the other splits
    questions: dict[str, list[Question]]  # by split
    metrics: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write the four tables and the questions. The training text keeps its source's order, so its readers must draw from it."""
        of_chats, chats = (*OUT_COLUMNS, "loss_spans"), self.store.num_chats > 0
        trained, names = of_chats if chats or self.dialogues else OUT_COLUMNS, of_chats if chats else OUT_COLUMNS
        with artifacts.table_writer(folder / "train.parquet", trained) as write:
            for _, columns in self.store.selected(self.train, trained):
                write(columns)
            write(_columns(self.dialogues, trained))
        for name, documents in self.documents.items():
            artifacts.write_table(folder / f"{name}.parquet", _columns(documents, names))
        artifacts.write_jsonl(folder / "mcq.jsonl", self.question_rows())

    def summary(self) -> str:
        """The counts of what was kept and of what was dropped and why, in a few lines."""
        counts, left_out = self.metrics["documents"], self.metrics["left_out"]
        dropped = {
            **self.metrics["dropped"],
            **{f"{kind}_leaks": count for kind, count in self.metrics["leak_check"]["dropped"].items()},
        }
        lines = {
            "documents": counts,
            "questions": {**self.metrics["questions"], "unused": self.metrics["num_questions_unused"]},
            "dropped": dropped,
            "text left out on reading": left_out["text"],
            "questions left out on reading": left_out["questions"],
        }
        shown = ((what, {key.replace("_", " "): count for key, count in found.items() if count}) for what, found in lines.items())
        return "\n".join(
            f"{what}: " + ", ".join(f"{key} {count:,}" for key, count in found.items()) for what, found in shown if found
        )

    def question_rows(self) -> list[dict[str, Any]]:
        """The questions as the rows of ``mcq.jsonl``."""
        return [
            {"id": item.id, "question": item.question, "choices": list(item.choices), "answer": item.answer, "split": split}
            for split, items in self.questions.items()
            for item in items
        ]


def prepare(corpus: Corpus, settings: Settings, scratch: Path, render: Render | None = None) -> Prepared:
    """Split the corpus, with the file ``scratch`` as storage; ``render`` makes its dialogues text.

    The caps apply before the leak check: a document that a cap discards can't leak, so no training text is removed because of it.
    Raises UserError when a split ends up with too little text, or with more leakage than ``settings.max_leakage``.
    """
    store, duplicates, sizes = _stored(corpus.documents, scratch)
    total = len(sizes)
    (groups, group_names), (sources, source_names) = store.codes("group"), store.codes("source")
    whole, dropped = _split(duplicates, groups, sources, settings)
    del duplicates  # a few hundred bytes a document
    caps = {**settings.max_bytes, "train": None}
    kept = {name: splits.capped(whole[name], sizes, cap) for name, cap in caps.items()}
    dropped |= {f"{name}_over_cap": len(whole[name]) - len(kept[name]) for name in settings.max_bytes}
    held = iter(store.documents(np.concatenate([kept[name] for name in settings.max_bytes]), total))
    documents = {name: list(islice(held, len(kept[name]))) for name in settings.max_bytes}
    in_groups = {name: _names(group_names, groups[whole[name]]) if corpus.questions else set() for name in TESTED}
    questions = _questions(corpus.questions, documents, in_groups, settings)
    unused = max(len(corpus.questions) - sum(map(len, questions.values())), 0)

    held_out = leaks.HeldOut(_texts({name: documents[name] for name in TESTED}, questions))
    _look_through(store, held_out, _mask(np.concatenate([kept["train"], kept["calibration"]]), total))
    staying, found = _without_leaks(held_out, kept, documents)
    kept = {name: numbers[staying[name]] for name, numbers in kept.items()}
    questions = {name: list(compress(items, staying[f"{name}_questions"])) for name, items in questions.items()}
    _require_text(kept, sizes)
    _require_no_leakage(found["leakage"], settings.max_leakage)
    in_training = _names(group_names, groups[kept["train"]]) if corpus.dialogues else set()
    trained = [(chat, group) for chat, group in corpus.dialogues if group in in_training]
    dialogues, without = _dialogues(trained, held_out, render)
    metrics = {
        **_counts(kept, sizes, sources, source_names.to_pylist()),
        "questions": {name: len(items) for name, items in questions.items()},
        "num_questions": sum(map(len, questions.values())),
        "num_questions_unused": unused,  # beyond the caps, or about documents of the other splits
        "leak_check": found,
        "dropped": dropped,
        "left_out": {  # before all that, by the readers
            "text": dict(getattr(corpus.documents, "dropped", {})),
            "questions": dict(corpus.questions_dropped),
            **({"dialogues": without} if without else {}),
        },
        "sources": corpus.sources,
    }
    documents = {name: list(compress(items, staying[name])) for name, items in documents.items()}
    if store.num_chats or dialogues:
        chats = {"read": store.num_chats, "dialogues": len(dialogues)}
        metrics["chats"] = {**chats, "examples": _examples([*documents["calibration"], *dialogues])}
    return Prepared(store, _mask(kept["train"], total), dialogues, documents, questions, metrics)


def _names(names: pyarrow.LargeStringArray, codes: NDArray[np.int64]) -> set[str]:
    return set(names.take(np.unique(codes)).to_pylist())


def _columns(documents: Sequence[Document], names: Sequence[str]) -> dict[str, list[Any]]:
    return {name: [getattr(document, name) for document in documents] for name in names}


def _dialogues(
    chats: Sequence[tuple[Chat, str]], held_out: leaks.HeldOut, render: Render | None
) -> tuple[list[Document], dict[str, int]]:
    """The chats as documents of their groups, and how many were left out, by reason: a leak, or what ``render`` raises."""
    if not chats or render is None:
        return [], {}
    leaking = {*held_out.leaks(held_out.find(words_of([chat.plain for chat, _ in chats])))[0].tolist()}
    told, without = [], Counter({"leaks": len(leaking)})
    for number, (chat, group) in enumerate(chats):
        if number not in leaking:
            try:
                text, spans = render(chat, f"dialogue {number}")
                told.append(Document(text, group, DIALOGUES, chat.plain, spans))
            except LeftOut as reason:
                without[str(reason)] += 1
    return told, {reason: count for reason, count in without.items() if count}


def _stored(documents: Iterable[Document], scratch: Path) -> tuple[Store, Duplicates, NDArray[np.int64]]:
    """The stored documents, their duplicates, and their sizes in UTF-8 bytes, (documents,)."""
    scratch.parent.mkdir(parents=True, exist_ok=True)
    store, duplicates, sizes = Store(scratch), Duplicates(scratch.parent), []
    for batch in ahead(store.write(tqdm(documents, desc="reading", unit="document"))):
        duplicates.add(words_of([document.words for document in batch]))
        sizes.append(np.array([len(document.text.encode()) for document in batch]))
    if not sizes:
        raise UserError("dataset: holds no text; give at least some documents")
    return store, duplicates, np.concatenate(sizes)


def _split(
    duplicates: Duplicates, groups: NDArray[np.int64], sources: NDArray[np.int64], settings: Settings
) -> tuple[dict[str, Numbers], dict[str, int]]:
    """The documents of each split, those of a capped split in the order of their turn, and the counts of what was removed."""
    distinct = np.flatnonzero(~duplicates.copies())
    near = np.zeros(len(groups), dtype=np.bool_)
    near[distinct] = duplicates.near_duplicates(distinct)
    parts = splits.split(groups[distinct], sources[distinct], settings.shares, settings.seed)
    whole = {name: distinct[numbers] for name, numbers in parts.items()}
    for name in settings.max_bytes:  # with the near duplicates, so that they change no other document's turn
        whole[name] = np.array(splits.spread(whole[name].tolist(), groups.__getitem__, settings.seed), dtype=np.intp)
    dropped = {"copies": len(groups) - len(distinct), "near_duplicates": int(near.sum())}
    return {name: numbers[~near[numbers]] for name, numbers in whole.items()}, dropped


def _questions(
    questions: Sequence[Question], documents: Mapping[str, Sequence[Document]], groups: Mapping[str, set[str]], settings: Settings
) -> dict[str, list[Question]]:
    """The questions there are, assigned to the splits, or else questions made from each split's own documents."""
    if questions or settings.make_questions is None:
        assigned = assign(questions, groups, settings.max_questions, settings.seed)
    else:
        worded = {name: [replace(item, text=item.words) for item in documents[name]] for name in settings.max_questions}
        assigned = {
            name: completion.make(worded[name], settings.make_questions, settings.template_text, at_most, settings.seed)
            for name, at_most in settings.max_questions.items()
        }
    return {name: balanced(items) for name, items in assigned.items()}


def _texts(documents: Mapping[str, Sequence[Document]], questions: Mapping[str, Sequence[Question]]) -> dict[str, list[str]]:
    """The texts that training must not see, by kind: ``test``, ``test_questions`` and so on."""
    return {
        **{name: [document.words for document in items] for name, items in documents.items()},
        **{f"{name}_questions": [question.evidence for question in items] for name, items in questions.items()},
    }


def _look_through(store: Store, held_out: leaks.HeldOut, training_side: NDArray[np.bool_]) -> None:
    with tqdm(total=int(training_side.sum()), desc="looking for leaks", unit="document") as progress:
        stored = ((numbers, _words(columns)) for numbers, columns in store.selected(training_side, ["text", "plain"]))
        for numbers, texts in ahead(stored):
            held_out.look_through(words_of(texts), numbers)
            progress.update(len(numbers))


def _words(columns: Mapping[str, Any]) -> list[str]:
    """As ``Document.words``, of stored documents."""
    pairs = zip(columns["text"].to_pylist(), columns["plain"].to_pylist(), strict=True)
    return [text if plain is None else plain for text, plain in pairs]


def _without_leaks(
    held_out: leaks.HeldOut, kept: Mapping[str, Numbers], documents: Mapping[str, Sequence[Document]]
) -> tuple[dict[str, NDArray[np.bool_]], dict[str, Any]]:
    """Which texts of each split and its questions are kept, and what was found.

    Compares the training side with everything held out, and the validation text with the test.
    """
    numbers, runs = held_out.leaks()
    by_heart = held_out.by_heart()
    staying = {kind: ~texts for kind, texts in by_heart.items()}
    found = {}
    for name in ("train", "calibration"):
        staying[name] = ~np.isin(kept[name], numbers)
        own = np.isin(numbers, kept[name])
        found[name] = held_out.count((numbers[own], runs[own]))
    seen = held_out.find(words_of([document.words for document in documents["validation"]]))
    near = held_out.leaks(seen, ["test", "test_questions"])
    staying["validation"][near[0]] = False
    found["validation"] = {kind: count for kind, count in held_out.count(near).items() if kind.startswith("test")}
    return staying, {
        "found": found,
        "dropped": {kind: int((~texts).sum()) for kind, texts in staying.items()},
        "leakage": held_out.leakage({kind: staying[kind] for kind in by_heart}),
    }


def _examples(documents: Sequence[Document]) -> list[dict[str, Any]]:
    """The beginnings of the first few chats, with the characters that the assistant says."""
    chats = [document for document in documents if document.loss_spans is not None][:EXAMPLES]
    return [
        {
            "text": chat.text[:EXAMPLE_CHARACTERS],
            "loss_spans": [
                [first, min(end, EXAMPLE_CHARACTERS)] for first, end in chat.loss_spans or () if first < EXAMPLE_CHARACTERS
            ],
        }
        for chat in chats
    ]


def _mask(numbers: Numbers, total: int) -> NDArray[np.bool_]:
    mask = np.zeros(total, dtype=np.bool_)
    mask[numbers] = True
    return mask


def _require_text(kept: Mapping[str, Numbers], sizes: NDArray[np.int64]) -> None:
    for name, numbers in kept.items():
        size = int(sizes[numbers].sum())
        if size < MINIMUM_BYTES:
            raise UserError(
                f"dataset: {len(numbers)} documents with {size} bytes of text came out for {name}, at least {MINIMUM_BYTES} bytes"
                " are needed; give more text, or raise the shares and the maximum sizes"
            )


def _require_no_leakage(leakage: Mapping[str, float], limit: float) -> None:
    for kind, share in leakage.items():
        if share > limit:
            raise UserError(
                f"dataset: {share:.1%} of the {kind.replace('_', ' ')}, in runs of {leaks.RUN} words, stands in the training text,"
                f" more than dataset.max_leakage ({limit:.1%}); name a dataset.group_column that keeps such texts together,"
                " or raise it"
            )


def _counts(
    kept: Mapping[str, Numbers], sizes: NDArray[np.int64], sources: NDArray[np.int64], source_names: Sequence[str]
) -> dict[str, Any]:
    by_source = {name: np.bincount(sources[numbers], sizes[numbers], len(source_names)) for name, numbers in kept.items()}
    return {
        "documents": {name: len(numbers) for name, numbers in kept.items()},
        "bytes": {name: int(sizes[numbers].sum()) for name, numbers in kept.items()},
        "bytes_by_source": {
            source: {name: int(found[code]) for name, found in by_source.items()} for code, source in enumerate(source_names)
        },
    }
