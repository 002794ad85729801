"""Which columns hold a question, its choices and its answer, by the names that MMLU, MedMCQA, ARC, SciQ, RACE and others use.

A name counts only as a whole: ``choice_1`` is a choice, ``choice_type`` is not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from minigpts.errors import UserError

# Without case, blanks, "_", "-" and ".". The first name wins where others are there, too; two of the others are refused.
QUESTION = ("question", "prompt", "stem", "questionstem", "questiontext", "input")  # input: an older edition of MMLU
ANSWER = ("answer", "answerkey", "correctanswer", "correctoption", "correctchoice", "cop", "label", "target")
LISTED = ("choices", "options")
_CHOICE = re.compile(r"(?P<family>choice|option|op|distractor)(?P<mark>[a-z]|\d+)|(?P<letter>[a-z])")
_UNCLEAR_BASE = ("cop",)  # MedMCQA's files count from 1, the hub's edition of them from 0


@dataclass(frozen=True)
class Layout:
    """The names of the columns; ``missing`` says which are not there, and then no other field counts."""

    question: str = ""
    answer: str = ""
    choices: tuple[str, ...] = ()  # in the order of their letters or numbers; one that is ``listed`` holds all choices
    listed: bool = False
    wrong: bool = False  # SciQ's: the choices are the wrong ones, the answer is the right one
    counted: bool = False  # a number as the answer may count from 0 or from 1
    unused: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def layout(names: Sequence[str], where: str) -> Layout:
    """What each of the columns is. Raises UserError for two columns of one meaning, or choices that don't follow one another."""
    short = {name: re.sub(r"[\s_.-]+", "", name).lower() for name in names}
    question, answer = _one(short, QUESTION, where), _one(short, ANSWER, where)
    families: dict[str, dict[str, str]] = {}  # of choice columns: family -> mark -> name
    for name, plain in short.items():
        if (match := _CHOICE.fullmatch(plain)) and name not in (question, answer):
            marks, mark = families.setdefault(match["family"] or "", {}), match["mark"] or match["letter"]
            if marks.setdefault(mark, name) != name:
                raise UserError(f"{where}: '{marks[mark]}' and '{name}' name the same choice; rename one of them")
    families = {family: marks for family, marks in families.items() if {"a", "0", "1"} & set(marks)}
    listed = _one(short, LISTED, where)
    if len(families) + bool(listed) > 1:
        found = ", ".join([*([listed] if listed else []), *(next(iter(marks.values())) for marks in families.values())])
        raise UserError(f"{where}: more than one set of choices, beginning with the columns {found}; rename all but one")
    family, marks = next(iter(families.items()), ("", {}))
    choices = (listed,) if listed else _in_order(marks, where)
    enough = bool(listed) or len(choices) >= (1 if family == "distractor" else 2)
    missing = [kind for kind, there in (("question", question), ("choices", enough), ("answer", answer)) if not there]
    return Layout(
        question,
        answer,
        choices,
        bool(listed),
        family == "distractor",
        short.get(answer) in _UNCLEAR_BASE or ("1" in marks and "0" not in marks),
        tuple(name for name in names if name and name not in (question, answer, *choices)),
        tuple(missing),
    )


def _one(short: dict[str, str], known: Sequence[str], where: str) -> str:
    """The column of one of the ``known`` names; empty where there is none."""
    found = sorted((known.index(plain), name) for name, plain in short.items() if plain in known)
    if len(found) > 1 and (found[0][0] > 0 or found[1][0] == 0):
        both = " and ".join(f"'{name}'" for _, name in found[:2])
        raise UserError(f"{where}: {both} may both be the {known[0]}; rename one of them")
    return found[0][1] if found else ""


def _in_order(marks: dict[str, str], where: str) -> tuple[str, ...]:
    """The columns from A, 0 or 1 on. Raises UserError for one that does not follow the others."""
    places = {mark: int(mark) if mark.isdigit() else ord(mark) for mark in marks}
    ordered = sorted(marks, key=places.__getitem__)
    for before, mark in pairwise(ordered):
        if places[mark] != places[before] + 1:
            raise UserError(f"{where}: no choice between the columns '{marks[before]}' and '{marks[mark]}'; rename what is none")
    return tuple(marks[mark] for mark in ordered)


def described(found: Sequence[str], missing: Sequence[str]) -> str:
    """What a header lacks, for a complaint."""
    names = {"question": QUESTION, "answer": ANSWER, "choices": ("A, B … or option 1, option 2 …",)}
    lacking = "; ".join(f"{kind} ({', '.join(names[kind])})" for kind in missing)
    return f"columns found: {', '.join(name or '(no name)' for name in found)}; missing: {lacking}"
