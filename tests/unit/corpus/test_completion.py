"""Questions made from text: what is cut and chosen, that chance and order don't matter, and what is left out."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter

import pytest

from minigpts.corpus import completion
from minigpts.corpus.document import Document, Question, normalized
from minigpts.corpus.questions import balanced
from minigpts.errors import UserError

TEMPLATE = "English: {en}\nTaiwanese Mandarin: {zh}"
NOUNS = ["river", "tower", "miller", "dragon", "letter", "harvest", "winter", "garden", "lantern", "soldier", "market", "ferry"]
VERBS = ["carried", "watched", "followed", "burned", "mended", "painted", "crossed", "remembered"]


def sentence(chance: random.Random, words: int) -> str:
    body = [chance.choice(NOUNS if at % 2 == 0 else VERBS) for at in range(words - 1)]
    return " ".join(["The", *body]) + "."


def documents(count: int, sentences: int = 3, seed: int = 1) -> list[Document]:
    chance = random.Random(seed)
    return [
        Document(" ".join(sentence(chance, chance.randint(9, 32)) for _ in range(sentences)), f"g{index // 2}", "test")
        for index in range(count)
    ]


def ends(question: Question) -> tuple[str, list[str]]:
    """What all choices begin with, and how each goes on."""
    start = question.question.removesuffix(" …")
    assert start != question.question and all(choice.startswith(start) for choice in question.choices)
    return start, [choice.removeprefix(start).lstrip() for choice in question.choices]


def sentences_of(text: str) -> set[str]:
    """The sentences that questions are made from, among many other documents."""
    found = completion.make([*documents(40, sentences=1), Document(text, "it", "test")], "completion", None, 10_000, 0)
    return {question.evidence for question in found if question.group == "it"}


def test_a_sentence_is_cut_in_the_middle_and_whole_it_is_the_right_choice():
    texts = documents(40)
    group_of = {part + ".": text.group for text in texts for part in text.text.removesuffix(".").split(". ")}
    found = completion.make(texts, "completion", None, 1000, 0)
    assert len(found) > 60
    for question in found:
        start, _ = ends(question)
        assert question.choices[question.answer] == question.evidence
        assert group_of[question.evidence] == question.group
        assert 9 <= len(question.evidence.split()) <= 32
        assert 0.35 <= len(start.split()) / len(question.evidence.split()) <= 0.65


def test_wrong_choices_are_other_groups_ends_of_about_the_same_length():
    texts = documents(40)
    found = completion.make(texts, "completion", None, 1000, 0)
    for question in found:
        right, *wrong = ends(question)[1]
        assert question.answer == 0 and len({normalized(choice) for choice in question.choices}) == 4
        for choice in wrong:
            assert {text.group for text in texts if f" {choice}" in text.text} - {question.group}
            assert 3 / 4 <= len(choice) / len(right) <= 4 / 3
    assert Counter(question.answer for question in balanced(found[:40])) == {0: 10, 1: 10, 2: 10, 3: 10}


def test_order_of_the_documents_does_not_matter_and_the_seed_does():
    texts = documents(40)
    found = completion.make(texts, "completion", None, 50, 7)
    assert completion.make(texts[::-1], "completion", None, 50, 7) == found
    assert completion.make([*texts, *texts], "completion", None, 50, 7) == found
    other = completion.make(texts, "completion", None, 50, 8)
    assert {question.id for question in other} != {question.id for question in found}
    assert completion.make(texts, "completion", None, 20, 7) == found[:20]


def test_the_same_in_every_process():
    texts = documents(12)
    script = (
        "from minigpts.corpus.completion import make; from minigpts.corpus.document import Document;"
        f"print([(q.id, q.choices) for q in make({texts!r}, 'completion', None, 9, 3)])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "1"}
    there = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True).stdout
    here = [(question.id, question.choices) for question in completion.make(texts, "completion", None, 9, 3)]
    assert there == f"{here}\n"


def test_every_document_has_a_turn_before_any_has_a_second():
    texts = documents(30, sentences=6)
    owner = {part.removesuffix(".") + ".": index for index, text in enumerate(texts) for part in text.text.split(". ")}
    turns = [owner[question.evidence] for question in completion.make(texts, "completion", None, 1000, 0)]
    assert len(set(turns[:30])) == 30
    assert max(Counter(turns).values()) > 1


def test_the_evidence_stands_in_the_text_in_the_same_words():
    text = 'Old Man: The ferry that carried the miller\nover the river "burned" in the winter, and nobody remembered it. Go!'
    (evidence,) = sentences_of(text)
    assert evidence == 'The ferry that carried the miller over the river "burned" in the winter, and nobody remembered it.'
    assert normalized(evidence) in normalized(text)


@pytest.mark.parametrize(
    "text",
    [
        "Mr. J. Miller of the U.S. Army has never seen the river in winter, i.e. when it freezes.",
        '"Stop!" cried the old miller, who had watched the ferry burn from his tower.',
        "Wait... the old miller remembered that he had never mended the lantern in the tower.",
        "Élodie a remarqué que le vieux meunier n'avait jamais traversé la rivière en hiver.",
        "Старый мельник никогда не видел, как зимой замерзает «широкая река» у башни.",
    ],
)
def test_a_sentence_is_taken_whole(text):
    after = "It rained."
    assert sentences_of(f"{text} {after}") <= {text, f"{text} {after}"} and sentences_of(f"{text} {after}")


@pytest.mark.parametrize(
    "text",
    [
        "the second half of what the old miller said about the river and the tower.",
        "What the old miller said about the river and the tower has no end",
        "THE OLD MILLER SAID THAT THE RIVER IS CLOSED AND NOBODY MAY CROSS IT.",
        "Table 3.1 12 14 15 16 17 18 19 20 21 22 23 24 25 26 27.",
        "Too short a sentence for this.",
        "About the Miller\nThe old miller said that the river is closed and nobody may cross.",
        '"All of this is one long quote in which no place is found to cut anything."',
        " ".join(["The", *["river"] * 40]) + ".",
    ],
)
def test_what_reads_badly_is_left_out(text):
    assert sentences_of(text) == set()


def test_no_cut_inside_quotes_or_brackets():
    text = Document("The old miller had said so (to the soldier) but nobody in the market believed it.", "it", "test")
    starts = {
        question.question
        for seed in range(20)
        for question in completion.make([*documents(12), text], "completion", None, 1000, seed)
        if question.group == "it"
    }
    assert {len(start.removesuffix(" …").split()) for start in starts} == {6, 9, 10}  # of 6 to 10 words, 7 and 8 being inside


def test_scripts_without_spaces_are_cut_between_clauses():
    subjects, places = ["老師", "醫生", "農夫", "船長", "廚師"], ["河邊", "山上", "市場", "花園", "學校"]
    texts = [
        Document(f"昨天下午{who}在{where}看到一條很大的魚，所以{who}馬上回到{where}去告訴大家。今天下雨。", f"{who}{where}", "test")
        for who in subjects
        for where in places
    ]
    found = completion.make([*texts, *documents(40)], "completion", None, 1000, 0)
    chinese = [question for question in found if question.group in {text.group for text in texts}]
    assert len(chinese) == len(texts)
    for question in chinese:
        start, possible = ends(question)
        assert start.endswith("看到一條很大的魚，") and question.choices[0] == question.evidence == start + possible[0]
        assert all(end.startswith("所以") for end in possible)  # no English end beside Chinese ones


def pairs(count: int) -> list[Document]:
    chance = random.Random(2)
    characters = "天地人山水火木金土日月風雨雲花草鳥魚馬牛"
    return [
        Document(
            TEMPLATE.format(en=sentence(chance, 12), zh="".join(chance.choices(characters, k=chance.randint(8, 14))) + "。"),
            f"g{index}",
            "test",
        )
        for index in range(count)
    ]


def test_a_translation_is_asked_for_in_the_templates_words():
    texts = pairs(40)
    found = completion.make(texts, "translation", TEMPLATE, 1000, 0)
    assert len(found) == 40
    assert completion.make(texts[::-1], "translation", TEMPLATE, 1000, 0) == found
    text_of = {text.group: text.text for text in texts}
    for question in found:
        assert question.group is not None
        assert f"{question.question} {question.choices[0]}" == text_of[question.group] == question.evidence
        assert question.question.startswith("English: The ") and question.question.endswith("\nTaiwanese Mandarin:")
        assert all(any(text.text.endswith(f": {choice}") for text in texts) for choice in question.choices)
        assert len(set(question.choices)) == 4


def test_no_translation_of_the_same_sentence_is_a_wrong_choice():
    texts = [Document(TEMPLATE.format(en="Good morning.", zh=f"早安{end}"), f"g{end}", "test") for end in "啊呀嗎呢"]
    with pytest.raises(UserError, match="not one translation question"):
        completion.make(texts, "translation", TEMPLATE, 10, 0)


def test_pairs_that_cannot_be_told_apart_or_are_too_long_or_untranslated_are_left_out():
    odd = [
        "English: The label\nTaiwanese Mandarin: stands\nTaiwanese Mandarin: 兩次出現在這裡。",
        "Only the second half of a longer text.",
        TEMPLATE.format(en="The river. " * 50, zh="天地人山水火木金土。"),
        TEMPLATE.format(en="API", zh="API"),
    ]
    texts = [*pairs(20), *(Document(text, f"odd{index}", "test") for index, text in enumerate(odd))]
    found = completion.make(texts, "translation", TEMPLATE, 1000, 0)
    assert {question.group for question in found} == {f"g{index}" for index in range(20)}


@pytest.mark.parametrize("template", [None, "", "{text}", "{en} and {en}", "{en}\n{zh}\n{fr}"])
def test_translation_needs_a_template_of_two_columns(template):
    with pytest.raises(UserError, match=r"dataset\.template with two columns") as caught:
        completion.make(pairs(10), "translation", template, 10, 0)
    assert "\n" not in str(caught.value)


def test_not_a_single_question_is_an_error_in_one_line():
    for texts in ([], documents(2), [Document("Short. Texts. Only.", str(index), "test") for index in range(9)]):
        with pytest.raises(UserError, match=r"not one completion question could be made from \d documents") as caught:
            completion.make(texts, "completion", None, 10, 0)
        assert "\n" not in str(caught.value)
    assert completion.make(documents(9), "completion", None, 0, 0) == []
