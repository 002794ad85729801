"""Renders the Human Phenotype Ontology as prose, as dialogues and as questions.

A term becomes one document with its name, definition, comment and synonyms, in one of a few natural forms, so that a model
learns to get from the name to the definition and back. A dialogue is one thing that a person may ask about a term, with the answer.
A question asks for the term of a definition among its siblings.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from minigpts.corpus.document import Document, Question
from minigpts.corpus.domains.components import first_of_component
from minigpts.corpus.domains.obo import Term
from minigpts.corpus.readers.chat_rows import Chat

T = TypeVar("T")

SOURCE = "hpo"
FINDINGS = "HP:0000118"  # Phenotypic abnormality, the root of what a patient can have

# How a term is told, and in how many parts of all. {Name} and {Definition} begin with a capital, {name} and {definition}
# as inside a sentence; {more} is the comment and the synonyms, or nothing. A form with {definition} is used only where
# name and definition make one grammatical sentence; elsewhere the first form stands in.
# The mix is measured: under one fixed form, multiple-choice accuracy fell when tuning.
TEMPLATES: tuple[tuple[int, str], ...] = (
    (3, "{Name}: {Definition}{more}"),
    (2, "{Name} is {definition}{more}"),
    (2, "{Definition} This is called {name}.{more}"),
    (2, "Question: Which medical term has this definition? {Definition}\nAnswer: {Name}"),
    (1, "Question: What is meant by {name}?\nAnswer: {Definition}{more}"),
)
QUESTION = "Which medical term has this definition? {Definition}"

# How people ask about a term, in how many parts of all that fit it, and what they are told. {names} and {kinds} are numbered
# lists of its synonyms and of {number} terms below it.
DIALOGUES: tuple[tuple[int, str, str], ...] = (
    (3, "What is {name}?", "{Definition}{more}"),
    (1, "What does {name} mean?", "{Definition}{more}"),
    (1, "Define {name}.", "{Definition}"),
    (1, "Tell me about {name}.", "{Definition}{more}"),
    (2, QUESTION, "{Name}"),
    (1, "What else is {name} called?", "{names}"),
    (2, "List {number} kinds of {name}.", "{kinds}"),
)
TOLD = 0.3  # of the terms are also told as a dialogue
FEWEST, NUMBERS = 3, ("three", "four", "five")  # kinds that are asked for

MAX_SYNONYMS = 3

# A main verb in the first sentence: one that isn't part of a relative clause.
_VERB = re.compile(r"^(?:(?![.?!]\s).)*?(?<!that)(?<!which)(?<!who)(?<!there) (?:is|are|was|were|has|have|refers|means|occurs) ")
_PLURALS = re.compile(r"(?:[^iu]s|ae|teeth|feet|nuclei|cilia|hair|data)$")
_HEAD_END = re.compile(
    r"(?:,| \(| (?:of|in|with|due|on|by|to|at|for|from|during|after|without|and|or|as|upon|following|involving|near) ).*"
)


def groups(terms: Mapping[str, Term]) -> dict[str, str]:
    """A group for each term; terms that share a parent share it (connected components over the parents).

    Terms may have several parents: one group holds a third of all terms, some 3,000 small groups hold the rest.
    """
    families = [term.parents or [term.id] for term in terms.values()]
    pairs = ((family[0], parent) for family in families for parent in family[1:])
    first = first_of_component((item for family in families for item in family), pairs)
    return {term.id: f"{SOURCE}:{first[family[0]]}" for term, family in zip(terms.values(), families, strict=True)}


def documents(terms: Mapping[str, Term]) -> Iterator[Document]:
    """One document for each term with a definition, in the order of their ids."""
    group_of = groups(terms)
    common = common_words(terms)
    for term in sorted(terms.values(), key=lambda term: term.id):
        if term.definition:
            yield Document(render(term, common), group_of[term.id], SOURCE)


def common_words(terms: Mapping[str, Term]) -> frozenset[str]:
    """Words that occur in lower case somewhere, and so are no proper names or abbreviations."""
    texts = (" ".join([term.name, term.definition, term.comment, *term.synonyms]) for term in terms.values())
    return frozenset(word for text in texts for word in re.findall(r"\b[a-z][a-z'-]*\b", text))


def render(term: Term, common: frozenset[str]) -> str:
    """The term's document, in the form that a hash of its id picks, independent of order and of other terms."""
    definition, name = term.definition, _inside(term.name, common)
    template = _pick(TEMPLATES, term.id)
    if _names_itself(term):  # asking for the name, or adding it, would be odd
        template = "{Definition}{more}" if definition.casefold().startswith(term.name.casefold()) else TEMPLATES[0][1]
    elif "{definition}" in template and not _makes_a_sentence(term.name, definition):
        template = TEMPLATES[0][1]
    return template.format(
        Name=term.name, name=name, Definition=definition, definition=_inside(definition, common), more=_more(term, common)
    )


def _pick(forms: Sequence[tuple[int, T]], key: str) -> T:
    """One of the forms, each as often as it has parts, by a hash of ``key``."""
    every = [form for parts, form in forms for _ in range(parts)]
    return every[_hash(key) % len(every)]


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])


def dialogues(terms: Mapping[str, Term]) -> Iterator[tuple[Chat, str]]:
    """A dialogue about each of ``TOLD`` of the terms with a definition, in the order of their ids, and its group.

    One that lists the terms below a term is of their group: it names them.
    """
    group_of, common, children = groups(terms), common_words(terms), _children(terms)
    for term in sorted(terms.values(), key=lambda term: term.id):
        if not term.definition or _hash(f"told {term.id}") % 1000 >= 1000 * TOLD:
            continue
        names, below = _other_names(term), [terms[id_] for id_ in sorted(children.get(term.id, ()))]
        kinds = below[: FEWEST + _hash(f"number {term.id}") % len(NUMBERS)]
        fits = {"{Name}": not _names_itself(term), "{names}": len(names) > 1, "{kinds}": len(kinds) >= FEWEST}
        question, answer = _pick([(parts, form) for parts, *form in DIALOGUES if fits.get(form[1], True)], f"dialogue {term.id}")
        values = {
            "Name": term.name,
            "name": _inside(term.name, common),
            "Definition": term.definition,
            "more": _more(term, common),
            "names": _numbered(names),
            "kinds": _numbered(kind.name for kind in kinds),
            "number": NUMBERS[max(len(kinds) - FEWEST, 0)],
        }
        group = group_of[(kinds[0] if answer == "{kinds}" else term).id]
        said = zip(("user", "assistant"), (question, answer), strict=True)
        yield Chat([{"role": role, "content": text.format(**values)} for role, text in said], None), group


def _numbered(items: Iterable[str]) -> str:
    return "\n".join(f"{number}. {item}" for number, item in enumerate(items, start=1))


def _inside(text: str, common: frozenset[str]) -> str:
    """The text for use inside a sentence: in lower case at first, unless it begins with a name or an abbreviation."""
    first = re.split(r"[\s,/]", text, maxsplit=1)[0]
    small = first[:1].lower() + first[1:]
    return small + text[len(first) :] if small in common else text


def _makes_a_sentence(name: str, definition: str) -> bool:
    """Whether "{name} is {definition}" is surely grammatical: a singular name, and a noun phrase that doesn't repeat it."""
    head = _HEAD_END.sub("", name)
    noun_phrase = re.match(r"(?:An?|The) ", definition) and not _VERB.match(definition)
    return bool(noun_phrase) and " and " not in name and not _PLURALS.search(head)


def _more(term: Term, common: frozenset[str]) -> str:
    """The comment and other names, as sentences with a space before them."""
    others = [_inside(text, common) for text in _other_names(term)]
    listed = " or ".join(filter(None, [", ".join(others[:-1]), *others[-1:]]))
    return (f" {term.comment}" if term.comment else "") + (f" Also called {listed}." if listed else "")


def _other_names(term: Term) -> list[str]:
    """At most ``MAX_SYNONYMS`` of them."""
    distinct = {text.casefold(): text for text in reversed([term.name, *term.synonyms])}
    distinct.pop(term.name.casefold())
    return list(distinct.values())[::-1][:MAX_SYNONYMS]


def questions(terms: Mapping[str, Term]) -> Iterator[Question]:
    """Questions that ask for the term of a definition: the right term first, then three siblings (terms that share a parent).

    Skips definitions that name their term, terms with fewer than three usable siblings, and terms that are not findings but
    modes of inheritance, modifiers or histories.
    """
    group_of = groups(terms)
    ancestors = {id_: _ancestors(id_, terms) for id_ in terms}
    children = _children(terms)
    for term in sorted(terms.values(), key=lambda term: term.id):
        if FINDINGS not in ancestors[term.id] or not term.definition or _names_itself(term):
            continue
        siblings = set().union(*(children[parent] for parent in term.parents)) - ancestors[term.id] - {term.id}
        wrong = _distractors(term, [terms[id_] for id_ in siblings if term.id not in ancestors[id_]])
        if len(wrong) == 3:
            text = QUESTION.format(Definition=term.definition)
            yield Question(term.id, text, (term.name, *wrong), 0, group_of[term.id], term.definition)


def _names_itself(term: Term) -> bool:
    return term.name.casefold() in term.definition.casefold()


def _distractors(term: Term, siblings: Iterable[Term]) -> list[str]:
    """Names of up to three siblings in a random order fixed by the ids; none shares a name or synonym with another."""
    taken = _known_as(term)
    names: list[str] = []
    for sibling in sorted(siblings, key=lambda other: hashlib.sha256(f"{term.id} {other.id}".encode()).digest()):
        if len(names) < 3 and not _known_as(sibling) & taken:
            names.append(sibling.name)
            taken |= _known_as(sibling)
    return names


def _known_as(term: Term) -> set[str]:
    return {text.casefold() for text in (term.name, *term.synonyms)}


def _children(terms: Mapping[str, Term]) -> dict[str, set[str]]:
    children: dict[str, set[str]] = {}
    for term in terms.values():
        for parent in term.parents:
            children.setdefault(parent, set()).add(term.id)
    return children


def _ancestors(id_: str, terms: Mapping[str, Term]) -> set[str]:
    found: set[str] = set()
    waiting = [id_]
    while waiting:
        fresh = {parent for parent in terms[waiting.pop()].parents if parent in terms} - found
        found |= fresh
        waiting += fresh
    return found
