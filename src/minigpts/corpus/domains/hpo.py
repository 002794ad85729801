"""Renders the Human Phenotype Ontology as prose and as questions.

A term becomes one document with its name, definition, comment and synonyms, in one of a few natural forms, so that a model
learns to get from the name to the definition and back. A question asks for the term of a definition among its siblings.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping

from minigpts.corpus.document import Document, Question
from minigpts.corpus.domains.components import first_of_component
from minigpts.corpus.domains.obo import Term

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
    template = _pick(term.id)
    if _names_itself(term):  # asking for the name, or adding it, would be odd
        template = "{Definition}{more}" if definition.casefold().startswith(term.name.casefold()) else TEMPLATES[0][1]
    elif "{definition}" in template and not _makes_a_sentence(term.name, definition):
        template = TEMPLATES[0][1]
    return template.format(
        Name=term.name, name=name, Definition=definition, definition=_inside(definition, common), more=_more(term, common)
    )


def _pick(key: str) -> str:
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])
    return [template for parts, template in TEMPLATES for _ in range(parts)][number % sum(parts for parts, _ in TEMPLATES)]


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
    distinct = {text.casefold(): text for text in reversed([term.name, *term.synonyms])}
    distinct.pop(term.name.casefold())
    others = [_inside(text, common) for text in list(distinct.values())[::-1][:MAX_SYNONYMS]]
    listed = " or ".join(filter(None, [", ".join(others[:-1]), *others[-1:]]))
    return (f" {term.comment}" if term.comment else "") + (f" Also called {listed}." if listed else "")


def questions(terms: Mapping[str, Term]) -> Iterator[Question]:
    """Questions that ask for the term of a definition: the right term first, then three siblings (terms that share a parent).

    Skips definitions that name their term, terms with fewer than three usable siblings, and terms that are not findings but
    modes of inheritance, modifiers or histories.
    """
    group_of = groups(terms)
    ancestors = {id_: _ancestors(id_, terms) for id_ in terms}
    children: dict[str, set[str]] = {}
    for term in terms.values():
        for parent in term.parents:
            children.setdefault(parent, set()).add(term.id)
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


def _ancestors(id_: str, terms: Mapping[str, Term]) -> set[str]:
    found: set[str] = set()
    waiting = [id_]
    while waiting:
        fresh = {parent for parent in terms[waiting.pop()].parents if parent in terms} - found
        found |= fresh
        waiting += fresh
    return found
