"""Assigns questions to splits, and balances the positions of the right answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from minigpts.corpus.document import Question
from minigpts.corpus.splits import spread


def assign(
    questions: Sequence[Question], groups: Mapping[str, Collection[str]], at_most: Mapping[str, int], seed: int
) -> dict[str, list[Question]]:
    """A seeded subset of the questions for each split of ``at_most``: those of its ``groups``, or any without a group.

    A subset has one question of each group before a second of any, so that no family of terms dominates. Questions without a
    group are shared in proportion to the caps.
    """
    order = spread(sorted(questions, key=lambda question: question.id), lambda question: question.group, seed)
    free = [question for question in order if question.group is None]
    total, count, last = max(sum(at_most.values()), 1), len(free), list(at_most)[-1]
    assigned = {}
    for split, cap in at_most.items():
        share = min(cap, len(free) if split == last else round(count * cap / total))
        own = [question for question in order if question.group is not None and question.group in groups[split]]
        assigned[split] = (own + free[:share])[:cap]
        free = free[share:]
    return assigned


def balanced(questions: Sequence[Question]) -> list[Question]:
    """The same questions with the right answers at each position equally often.

    Questions without a group are the user's own and keep their order: "all of the above" must stay last.
    """
    return [
        question if question.group is None else _placed(question, index % len(question.choices))
        for index, question in enumerate(questions)
    ]


def _placed(question: Question, position: int) -> Question:
    choices = list(question.choices)
    choices.insert(position, choices.pop(question.answer))
    return replace(question, choices=tuple(choices), answer=position)
