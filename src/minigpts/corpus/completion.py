"""Makes questions from a domain's own text, in the two ways of the Mini-GPTs paper (arXiv 2312.12682): completing a sentence, and
choosing a translation.

The prompts, as ``minigpts.evaluation.multiple_choice`` builds them:

* completion: ``Question: {start of a sentence} …\\nAnswer: {the whole sentence}``. The paper's code scores start and end as one
  text: after ``Answer:`` an end alone hardly follows from the start (SmolLM2 on game dialogue: 0.36 with ends, 0.55 with
  sentences). The choices share the start, which the token tree computes once. No words are put around it, since none would fit
  every language.
* translation: ``Question: {the template up to the translation}\\nAnswer: {the translation}``, worded as the domain's text is: with
  the template ``English: {en}\\nFrench: {fr}`` a question is ``English: Good morning.\\nFrench:``.

The wrong choices are right answers of other groups, of about the same length.
"""

from __future__ import annotations

import bisect
import hashlib
import math
import random
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from minigpts.corpus.document import Document, Question, normalized
from minigpts.errors import UserError

WRONG = 3  # choices beside the right one
SIMILAR = 4 / 3  # a wrong choice is at most this much longer or shorter than the right one, in characters
SENTENCE_WORDS = (9, 32)
CUT = (0.35, 0.65)  # where a sentence is cut, as a share of its words
CHARACTERS_A_WORD = 1.5  # in scripts without spaces
LETTERS = 0.85  # of a sentence's characters other than spaces, at least: no tables, formulas or code
PAIR_CHARACTERS = 500  # at most in a text with its translation, so that a question stays within a few hundred tokens
_LONGEST_ABBREVIATION = 20
_DRAWS = 64  # of possible wrong choices for a question

_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")  # kana and Chinese characters
_END = re.compile(r"(?<=[.!?…।؟۔])[\"'”’»)\]]*(?=\s|$)|(?<=[。！？])[」』”’）]*")
_NO_END = re.compile(r"\W*(?:[A-Z]\w{0,2}|[^\W\d]|\d{1,2}|\w+(?:\.\w+)+)\.")  # Mr. J. 12. e.g. U.S.
_SPEAKER = re.compile(r"\A[^\W\d][\w'’. -]{0,29}: +")  # "Name: " before a line of dialogue
_SOMETHING = re.compile(r"\S")
_CLAUSES = "，、；："  # marks between clauses
_BRACKETS = ("()", "[]", "{}", "“”", "«»", "「」", "『』", "（）")


@dataclass(frozen=True)
class _Item:
    """The material of one question."""

    question: str
    opening: str  # what every choice begins with
    answer: str
    evidence: str
    group: str
    turn: int  # number of questions of its document before it
    key: str  # its place in a random order that depends on the seed and the text alone


def make(
    documents: Sequence[Document], kind: Literal["completion", "translation"], template: str | None, at_most: int, seed: int
) -> list[Question]:
    """Up to ``at_most`` questions, one of each document before a second of any, each with its right choice first.

    They depend on the documents and the seed, not on the documents' order. ``template`` is the one that the documents of a
    translation were written with: its second field becomes the answer. A question's evidence is the whole sentence or document.
    Raises UserError for a translation without a template of two fields, and when not a single question can be made.
    """
    if at_most == 0:
        return []
    items = list(_completions(documents, seed) if kind == "completion" else _translations(documents, template, seed))
    pools: dict[bool, list[_Item]] = {True: [], False: []}
    for item in sorted(items, key=lambda item: (len(item.answer), item.key)):
        pools[_unspaced(item.answer)].append(item)
    questions: list[Question] = []
    for item in sorted(items, key=lambda item: (item.turn, item.key)):
        if len(questions) == at_most:
            break
        wrong = _wrong(item, pools[_unspaced(item.answer)])
        if len(wrong) == WRONG:
            choices = tuple(item.opening + end for end in (item.answer, *wrong))
            questions.append(Question(f"{kind}:{item.key[:16]}", item.question, choices, 0, item.group, item.evidence))
    if not questions:
        needed = {
            "completion": "whole sentences of {} to {} words".format(*SENTENCE_WORDS),
            "translation": f"texts of at most {PAIR_CHARACTERS} characters, written with dataset.template",
        }[kind]
        raise UserError(
            f"dataset: not one {kind} question could be made from {len(documents)} documents: that takes {needed}, in at least"
            f" {WRONG + 1} groups; give more text, or dataset.questions, or set dataset.make_questions to null"
        )
    return questions


def _wrong(item: _Item, pool: Sequence[_Item]) -> list[str]:
    """Answers of about the same length out of ``pool`` (by length), from other groups and to other questions."""
    low = bisect.bisect_left(pool, len(item.answer) / SIMILAR, key=lambda other: len(other.answer))
    high = bisect.bisect_right(pool, len(item.answer) * SIMILAR, key=lambda other: len(other.answer))
    chosen: dict[str, str] = {}  # by their words
    for index in random.Random(item.key).sample(range(low, high), min(high - low, _DRAWS)):
        other = pool[index]
        words = normalized(other.answer)
        new = words not in chosen and words != normalized(item.answer) and normalized(other.question) != normalized(item.question)
        if new and other.group != item.group:
            chosen[words] = other.answer
        if len(chosen) == WRONG:
            break
    return list(chosen.values())


def _ordered(documents: Sequence[Document], seed: int) -> list[Document]:
    return sorted(documents, key=lambda document: (_key(document.text, seed), document.group))


def _key(text: str, seed: int) -> str:
    return hashlib.sha256(f"{seed} {text}".encode()).hexdigest()


def _unspaced(text: str) -> bool:
    """Whether most of the text's letters are of a script without spaces between the words."""
    characters = len(_UNSPACED.findall(text))
    return characters > 0 and 2 * characters > sum(character.isalpha() for character in text)


def _completions(documents: Sequence[Document], seed: int) -> Iterator[_Item]:
    """Every sentence that can be cut in two; a sentence of several documents counts for one of them."""
    seen: set[str] = set()
    for document in _ordered(documents, seed):
        fresh = {normalized(sentence): sentence for sentence in _sentences(document.text)}
        found = sorted((_key(sentence, seed), sentence) for words, sentence in fresh.items() if words not in seen)
        seen.update(fresh)
        turn = 0
        for key, sentence in found:
            halves = _cut(sentence, random.Random(key))
            if halves is not None:
                start, end = halves
                yield _Item(f"{start} …", sentence.removesuffix(end), end, sentence, document.group, turn, key)
                turn += 1


def _sentences(text: str) -> Iterator[str]:
    """The sentences of a text that read well alone, each on one line and without its speaker's name."""
    for paragraph in re.split(r"\n\s*\n", text):
        start = 0
        for end in _END.finditer(paragraph):
            word = paragraph[max(start, end.start() - _LONGEST_ABBREVIATION) : end.start()].split()[-1:]
            following = _SOMETHING.search(paragraph, end.end())
            # In doubt the sentence goes on: two sentences read well together, half a sentence doesn't.
            if (following and following[0].islower()) or (word and _NO_END.fullmatch(word[0])):
                continue
            first, *others = _SPEAKER.sub("", paragraph[start : end.end()].strip()).splitlines()
            start = end.end()
            # A line that goes on with a capital may be a heading, or the words of somebody else.
            if _reads_well(first) and all(line.lstrip()[:1].islower() for line in others):
                yield " ".join(" ".join([first, *others]).split())


def _reads_well(sentence: str) -> bool:
    """Whether it begins like a sentence and is one: no table, formula, code or shout."""
    begin = sentence.lstrip("\"'“‘«「『（(")[:1]
    letters = sum(character.isalpha() for character in sentence)
    return (
        begin.isalpha() and not begin.islower() and not sentence.isupper() and letters >= LETTERS * len("".join(sentence.split()))
    )


def _cut(sentence: str, chance: random.Random) -> tuple[str, str] | None:
    """The two parts of a sentence, cut between words outside quotes and brackets; without spaces, between clauses."""
    unspaced = _unspaced(sentence)
    words, space = (list(sentence), "") if unspaced else (sentence.split(), " ")
    length = len(words) / (CHARACTERS_A_WORD if unspaced else 1)
    if not SENTENCE_WORDS[0] <= length <= SENTENCE_WORDS[1]:
        return None
    places = [
        at
        for at in range(math.ceil(CUT[0] * len(words)), math.floor(CUT[1] * len(words)) + 1)
        if (words[at - 1] in _CLAUSES if unspaced else words[at - 1][-1] not in ".!?…।؟۔")
    ]
    for at in chance.sample(places, len(places)):
        halves = space.join(words[:at]), space.join(words[at:])
        if all(map(_balanced, halves)):
            return halves
    return None


def _balanced(text: str) -> bool:
    """Whether every quote and bracket that opens is closed."""
    return text.count('"') % 2 == 0 and all(text.count(pair[0]) == text.count(pair[1]) for pair in _BRACKETS)


def _translations(documents: Sequence[Document], template: str | None, seed: int) -> Iterator[_Item]:
    """Every document that the template can have produced in exactly one way."""
    parts = list(string.Formatter().parse(template or ""))
    fields = [field for _, field, _, _ in parts if field is not None]
    if len(fields) != 2 or len(set(fields)) != 2:
        raise UserError(
            f"params.yaml: dataset.make_questions: translation needs a dataset.template with two columns, like"
            f" 'English: {{en}}\\nFrench: {{fr}}', got {template!r}"
        )
    literals = [*(part[0] for part in parts), ""]
    before, between, after = literals[0].lstrip(), literals[1], literals[2].rstrip()  # a document has no space around it
    form = re.compile(f"{re.escape(before)}(.+){re.escape(between)}(.+){re.escape(after)}", re.DOTALL)
    seen: set[str] = set()
    for document in _ordered(documents, seed):
        pair, words = form.fullmatch(document.text), normalized(document.text)
        if pair is None or between in pair[1] or words in seen or len(document.text) > PAIR_CHARACTERS:
            continue
        seen.add(words)
        source, target = pair[1].strip(), pair[2].strip()
        if normalized(target) not in ("", normalized(source)):
            question = f"{before}{source}{between}".strip()
            yield _Item(question, "", target, document.text, document.group, 0, _key(document.text, seed))
