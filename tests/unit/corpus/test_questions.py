"""Which questions test which split."""

from __future__ import annotations

from collections import Counter

from minigpts.corpus.document import Question
from minigpts.corpus.questions import assign, balanced

CAPS = {"validation": 2, "test": 6}


def question(number: int, group: str | None) -> Question:
    return Question(f"q{number}", f"question {number}?", ("right", "b", "c", "d"), 0, group, "")


def test_questions_follow_their_group_and_cover_groups_evenly():
    questions = [question(i, f"g{i % 4}" if i < 20 else "g5") for i in range(60)]
    chosen = assign(questions, {"validation": {"g0"}, "test": {"g1", "g2", "g5"}}, CAPS, seed=0)
    assert {item.group for item in chosen["validation"]} == {"g0"} and len(chosen["validation"]) == 2
    assert Counter(item.group for item in chosen["test"]) == {"g1": 2, "g2": 2, "g5": 2}


def test_questions_of_a_user_are_shared_in_proportion_and_used_once():
    groups: dict[str, set[str]] = {"validation": set(), "test": set()}
    few = assign([question(i, None) for i in range(4)], groups, CAPS, seed=0)
    assert [len(few["validation"]), len(few["test"])] == [1, 3]
    odd = assign([question(i, None) for i in range(3)], groups, {"validation": 100, "test": 500}, seed=0)
    assert sum(map(len, odd.values())) == 3  # none is lost to rounding
    many = assign([question(i, None) for i in range(100)], groups, CAPS, seed=0)
    assert [len(many["validation"]), len(many["test"])] == [2, 6]
    assert not {item.id for item in many["validation"]} & {item.id for item in many["test"]}
    assert many == assign([question(i, None) for i in reversed(range(100))], groups, CAPS, seed=0)


def test_right_answers_stand_everywhere_equally_often():
    items = balanced([question(i, "g") for i in range(8)])
    assert Counter(item.answer for item in items) == {0: 2, 1: 2, 2: 2, 3: 2}
    assert all(item.choices[item.answer] == "right" and sorted(item.choices) == ["b", "c", "d", "right"] for item in items)
    own = [question(i, None) for i in range(8)]
    assert balanced(own) == own
