"""The ontology's parser, prose and questions, on a stretch of OBO with every trap the real file has."""

from __future__ import annotations

import pytest

from minigpts.corpus.domains import hpo, obo

OBO = r"""format-version: 1.2
data-version: hp/releases/2001-02-03

[Term]
id: HP:0000118
name: Phenotypic abnormality

[Term]
id: HP:0000010
name: Abnormal spoon
is_a: HP:0000118 ! Phenotypic abnormality

[Term]
id: HP:0000011
name: Bent spoon
def: "A lasting curve of the handle (\"bow\") seen from the side (see Figure 2 of PMID:12345) ." [PMID:12345, https://orcid.org/0]
comment: The curve is rarely painful. This term should not be used for new annotations. Forks bend too.
synonym: "Curved spoon" EXACT layperson [https://orcid.org/0]
synonym: "Spoon, bent" EXACT []
synonym: "Spoon curvature" RELATED []
synonym: "Bent spune" EXACT uk_spelling []
is_a: HP:0000010 ! Abnormal spoon

[Term]
id: HP:0000012
name: Wilms spoon
def: "A heavy spoon, as Wilms drew it" []
is_a: HP:0000010 ! Abnormal spoon
is_a: HP:0000020 ! Abnormal weight

[Term]
id: HP:0000013
name: Flat spoon
def: "A flat spoon is one without a hollow." []
is_a: HP:0000010 ! Abnormal spoon

[Term]
id: HP:0000014
name: Short spoon
def: "Reduced length of the handle\, compared with others." []
is_a: HP:0000010 ! Abnormal spoon

[Term]
id: HP:0000020
name: Abnormal weight
is_a: HP:0000118 ! Phenotypic abnormality

[Term]
id: HP:0000021
name: Lead fork
def: "A fork of unusual mass." []
is_a: HP:0000020 ! Abnormal weight

[Term]
id: HP:0000030
name: Onset in spring
def: "Beginning between March and May." []

[Term]
id: HP:0000099
name: obsolete Old spoon
def: "Obsolete." []
is_obsolete: true

[Typedef]
id: part_of
name: part of
"""


@pytest.fixture
def terms() -> dict[str, obo.Term]:
    return obo.parse(OBO)[0]


def test_every_document_tells_name_and_definition_without_traces_of_the_format(terms):
    texts = {document.text for document in hpo.documents(terms)}
    assert len(texts) == 6  # the terms with a definition
    bent = next(text for text in texts if "lasting curve" in text)
    assert "bent spoon" in bent.casefold() and 'curve of the handle ("bow") seen from the side.' in bent
    for trace in ("PMID", "[]", "\\", "  ", "This term", "Forks bend", "spune"):
        assert not any(trace in text for text in texts)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{Name} is {definition}{more}", "Lead fork is a fork of unusual mass."),
        ("{Definition} This is called {name}.{more}", "A fork of unusual mass. This is called lead fork."),
    ],
)
def test_templates_are_sentences(terms, monkeypatch, template, text):
    monkeypatch.setattr(hpo, "TEMPLATES", ((1, template),))
    common = hpo.common_words(terms) | {"lead"}
    assert hpo.render(terms["HP:0000021"], common) == text


def test_dialogues_ask_what_fits_the_term(terms, monkeypatch):
    monkeypatch.setattr(hpo, "TOLD", 1)
    found = [(*(message["content"] for message in chat.messages), group) for chat, group in hpo.dialogues(terms)]
    assert len(found) == 6  # the terms with a definition
    for form in hpo.DIALOGUES:
        monkeypatch.setattr(hpo, "DIALOGUES", ((1000, *form[1:]), (1, "What is {name}?", "{Definition}")))
        found += [(*(message["content"] for message in chat.messages), group) for chat, group in hpo.dialogues(terms)]
    answers = {question: answer for question, answer, _ in found}
    assert answers["What else is bent spoon called?"] == "1. Curved spoon\n2. Spoon, bent"
    assert answers["Define Wilms spoon."] == "A heavy spoon, as Wilms drew it."
    assert answers[hpo.QUESTION.format(Definition="A heavy spoon, as Wilms drew it.")] == "Wilms spoon"
    assert "What else is Wilms spoon called?" not in answers  # it has no other name
    assert not any(answer == "A flat spoon" for answer in answers.values())  # whose definition says so
    assert not any("{" in text for pair in answers.items() for text in pair)


def test_a_dialogue_that_lists_kinds_is_of_their_group(terms, monkeypatch):
    monkeypatch.setattr(hpo, "TOLD", 1)
    monkeypatch.setattr(hpo, "DIALOGUES", ((1, "List {number} kinds of {name}.", "{kinds}"), (0, "What is {name}?", "")))
    terms["HP:0000010"].definition = "A spoon unlike others."
    for term in terms.values():
        if term.id != "HP:0000010":
            term.definition = ""
    ((chat, group),) = hpo.dialogues(terms)
    question, answer = (message["content"] for message in chat.messages)
    assert question == f"List {hpo.NUMBERS[len(answer.splitlines()) - hpo.FEWEST]} kinds of Abnormal spoon."
    assert answer.splitlines()[:3] == ["1. Bent spoon", "2. Wilms spoon", "3. Flat spoon"]
    assert group == hpo.groups(terms)["HP:0000011"] != hpo.groups(terms)["HP:0000010"]


def test_a_name_inside_a_sentence_keeps_its_capital_only_if_it_is_one(terms, monkeypatch):
    monkeypatch.setattr(hpo, "TEMPLATES", ((1, "{Definition} This is called {name}.{more}"),))
    common = hpo.common_words(terms)
    assert "This is called Wilms spoon." in hpo.render(terms["HP:0000012"], common)
    terms["HP:0000014"].comment = "Of short stems."
    assert "This is called short spoon." in hpo.render(terms["HP:0000014"], hpo.common_words(terms))


def test_a_definition_that_says_the_name_is_told_once(terms):
    terms["HP:0000013"].name = "A flat spoon"
    assert hpo.render(terms["HP:0000013"], frozenset()) == "A flat spoon is one without a hollow."


@pytest.mark.parametrize(
    ("name", "definition", "fits"),
    [
        ("Radial bowing", "A bending of the radius.", True),
        ("Abnormal rib ossification", "An anomaly of a process that is slow.", True),
        ("Distichiasis of the lid", "A second row of lashes.", True),
        ("Elevated urine zinc", "The amount of zinc in the urine, normalized, is above the limit.", False),
        ("Absent eyelids", "A lack of lids.", False),
        ("Sweating and flushing", "A reaction to food.", False),
        ("Malabsorption", "Impaired uptake of food.", False),
    ],
)
def test_only_surely_grammatical_sentences_are_made(name, definition, fits):
    assert hpo._makes_a_sentence(name, definition) is fits


def test_siblings_through_any_parent_share_a_group(terms):
    group = hpo.groups(terms)
    assert group["HP:0000011"] == group["HP:0000012"] == group["HP:0000021"]  # HP:0000012 has both parents
    assert group["HP:0000030"] != group["HP:0000011"]


def test_questions_ask_for_findings_among_their_siblings(terms):
    questions = {question.id: question for question in hpo.questions(terms)}
    assert set(questions) == {"HP:0000011", "HP:0000012", "HP:0000014"}  # HP:0000013 names itself, HP:0000021 has one sibling
    bent = questions["HP:0000011"]
    assert bent.choices[bent.answer] == "Bent spoon"
    assert set(bent.choices) == {"Bent spoon", "Wilms spoon", "Flat spoon", "Short spoon"}
    assert bent.question == hpo.QUESTION.format(Definition=bent.evidence)


def test_no_distractor_is_also_right(terms):
    terms["HP:0000014"].synonyms = ["Bent spoon"]
    assert "HP:0000011" not in {question.id for question in hpo.questions(terms)}
