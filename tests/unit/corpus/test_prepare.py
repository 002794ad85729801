"""From a corpus to the splits: nothing leaks, and the metrics say what was done."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from minigpts import artifacts
from minigpts.corpus import store
from minigpts.corpus.document import Corpus, Document, Question
from minigpts.corpus.leaks import HeldOut
from minigpts.corpus.prepare import Prepared, prepare
from minigpts.corpus.readers.chat_rows import Chat
from minigpts.corpus.settings import Settings
from minigpts.corpus.words import words_of
from minigpts.errors import UserError
from tests.tiny import WORDS

SETTINGS = Settings(
    domain="medical",
    source=None,
    text_column="text",
    template=None,
    group_column=None,
    questions=None,
    make_questions=None,
    keep_terms=None,
    general_text=None,
    max_leakage=0.05,
    seed=0,
    calibration_share=0.2,
    validation_share=0.2,
    test_share=0.2,
    calibration_bytes=3000,
    validation_bytes=3000,
    test_bytes=None,
    validation_questions=3,
    test_questions=5,
)


def text(number: int) -> str:
    chance = random.Random(number)
    return f"Note {number}: the {' and the '.join(chance.choices(WORDS, k=12))} were seen in year {number * 7919 % 9973}."


def corpus(count: int = 200) -> Corpus:
    documents = [Document(text(i), f"g{i // 2}", "s" if i < count // 2 else "t") for i in range(count)]
    questions = [Question(f"q{i}", f"Which? {i}", ("a", "b"), 0, f"g{i // 2}", text(i)) for i in range(count)]
    return Corpus(documents, questions, {"s": {"name": "notes"}})


def texts_of(prepared: Prepared, folder: Path) -> dict[str, list[str]]:
    prepared.write(folder)
    return {name: artifacts.read_table(folder / f"{name}.parquet", ["text"])["text"] for name in SETTINGS.shares | {"train": 0}}


def test_no_leak_is_left_and_every_document_is_accounted_for(tmp_path):
    whole = corpus()
    extended = Corpus([*whole.documents, Document(text(0), "g0", "s")], whole.questions, whole.sources)
    prepared = prepare(extended, SETTINGS, tmp_path / "scratch")
    texts, metrics = texts_of(prepared, tmp_path), prepared.metrics
    evidence = [question.evidence for items in prepared.questions.values() for question in items]
    held_out = HeldOut({"": [*texts["validation"], *texts["test"], *evidence]})
    for name in ("train", "calibration"):
        assert len(held_out.find(words_of(texts[name]))[0]) == 0
    assert metrics["dropped"]["copies"] == 1
    leaked = sum(metrics["leak_check"]["dropped"][name] for name in texts)
    assert sum(metrics["documents"].values()) + sum(metrics["dropped"].values()) + leaked == 201
    assert metrics["documents"] == {name: len(items) for name, items in texts.items()}
    assert metrics["bytes"] == {name: len("".join(items).encode()) for name, items in texts.items()}
    assert metrics["bytes"]["calibration"] <= 3000
    by_source = Counter({name: 0 for name in texts})
    for found in metrics["bytes_by_source"].values():
        by_source.update(found)
    assert by_source == metrics["bytes"]
    assert metrics["questions"] == {"validation": 3, "test": 5} and metrics["num_questions"] == 8


def test_the_training_text_keeps_its_order_and_batches_change_nothing(tmp_path, monkeypatch):
    one = texts_of(prepare(corpus(), SETTINGS, tmp_path / "scratch"), tmp_path / "one")
    order = [document.text for document in corpus().documents]
    assert [order.index(item) for item in one["train"]] == sorted(order.index(item) for item in one["train"])
    monkeypatch.setattr(store, "BATCH_CHARACTERS", 300)
    other = texts_of(prepare(corpus(), SETTINGS, tmp_path / "scratch"), tmp_path / "other")
    assert one == other


def test_dialogues_are_trained_on_where_their_group_is_and_change_nothing_else(tmp_path):
    whole, plain = corpus(), texts_of(prepare(corpus(), SETTINGS, tmp_path / "scratch"), tmp_path)

    def asked(number: int, answer: str) -> tuple[Chat, str]:
        messages = [{"role": "user", "content": f"What of {number}?"}, {"role": "assistant", "content": answer}]
        return Chat(messages, None), f"g{number // 2}"

    leaking = asked(whole.documents.index(next(item for item in whole.documents if item.text in plain["train"])), plain["test"][0])
    told = dataclasses.replace(whole, dialogues=[*(asked(number, "Red.") for number in range(200)), leaking])
    prepared = prepare(told, SETTINGS, tmp_path / "scratch", lambda chat, where: (chat.plain, [(0, 4)]))
    texts = texts_of(prepared, tmp_path)
    trained = {document.group for document in whole.documents if document.text in plain["train"]}
    expected = [chat.plain for chat, group in told.dialogues[:-1] if group in trained]
    assert texts == plain | {"train": plain["train"] + expected}
    spans = artifacts.read_table(tmp_path / "train.parquet", ["loss_spans"])["loss_spans"]
    assert spans == [None] * len(plain["train"]) + [[[0, 4]]] * len(expected)
    assert prepared.metrics["chats"]["dialogues"] == len(expected)
    assert prepared.metrics["left_out"]["dialogues"] == {"leaks": 1}


def test_planted_near_duplicates_are_in_one_split_at_most(tmp_path):
    whole = corpus()
    planted = [Document(f"{document.text} Again.", f"copy{i}", "s") for i, document in enumerate(whole.documents)]
    parts = prepare(Corpus([*whole.documents, *planted], whole.questions, whole.sources), SETTINGS, tmp_path / "scratch")
    assert parts.metrics["dropped"]["near_duplicates"] == 200
    assert not [item for items in texts_of(parts, tmp_path).values() for item in items if item.endswith("Again.")]


def test_a_test_text_all_over_the_corpus_leaves_the_test(tmp_path):
    chance = random.Random(0)
    phrases = [" ".join(f"p{chance.randrange(1000)}" for _ in range(20)) for _ in range(10)]
    hosts = [" ".join([*(f"h{chance.randrange(1000)}" for _ in range(30)), phrases[i % 10], str(i)]) for i in range(600)]
    documents = [Document(item, f"own{i}", "s") for i, item in enumerate([*hosts, *phrases])]
    prepared = prepare(Corpus(documents, [], {}), dataclasses.replace(SETTINGS, max_leakage=1), tmp_path / "scratch")
    texts, found = texts_of(prepared, tmp_path), prepared.metrics["leak_check"]
    assert not {*phrases} & {*texts["test"], *texts["validation"]}
    assert found["dropped"]["test"] + found["dropped"]["validation"] > 0
    assert found["dropped"]["train"] < 10  # that have a word by chance before or behind the phrase, as a held-out text does
    assert sum(any(phrase in item for phrase in phrases) for item in texts["train"]) > 200
    assert 0 < found["leakage"]["test"] < 0.5
    with pytest.raises(UserError, match=r"of the (test|validation), in runs of 13 words, .* dataset.max_leakage \(0.1%\)"):
        prepare(Corpus(documents, [], {}), dataclasses.replace(SETTINGS, max_leakage=0.001), tmp_path / "scratch")


def test_question_rows_name_their_split(tmp_path):
    rows = prepare(corpus(), SETTINGS, tmp_path / "scratch").question_rows()
    assert {row["split"] for row in rows} == {"validation", "test"}
    assert all(row["choices"][row["answer"]] == "a" for row in rows)


def test_too_little_text_is_refused_by_the_split(tmp_path):
    with pytest.raises(UserError, match="bytes of text came out for calibration"):
        prepare(Corpus([Document(text(i)[:20], f"g{i}", "s") for i in range(20)], [], {}), SETTINGS, tmp_path / "scratch")


def test_a_store_gives_back_what_it_took(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "BATCH_CHARACTERS", 300)
    documents = list(corpus(50).documents)
    kept = store.Store(tmp_path / "store")
    assert [item for batch in kept.write(documents) for item in batch] == documents
    numbers = np.array([49, 0, 7, 8])
    assert kept.documents(numbers, 50) == [documents[number] for number in numbers]
    codes, names = kept.codes("group")
    assert names.to_pylist() == sorted({document.group for document in documents})
    assert names.take(codes).to_pylist() == [document.group for document in documents]
