"""Instructions that can be checked without a judge: each kind is a function of the reply's text, asked three times."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

Check = Callable[[str], bool]

SENTENCE_END = re.compile(r"[.!?]+[\"'”’)]*(?=\s|$)")
ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+\S", re.MULTILINE)
NUMBERED = re.compile(r"^\s*(\d+)[.)]\s+\S", re.MULTILINE)
FENCE = re.compile(r"\A```(?:json)?\n(.*)\n```\Z", re.DOTALL)


def one_sentence(text: str) -> bool:
    """Whether it is exactly one sentence, to its end."""
    text = text.strip()
    ends = [found.end() for found in SENTENCE_END.finditer(text)]
    return ends == [len(text)]


def three_items(text: str) -> bool:
    """Whether it has exactly three list items, each on a line behind a dash, dot, star or number."""
    return len(ITEM.findall(text)) == 3


def numbered_list(text: str) -> bool:
    """Whether its numbered lines count from 1 on, at least to 2."""
    numbers = [int(number) for number in NUMBERED.findall(text)]
    return len(numbers) >= 2 and numbers == list(range(1, len(numbers) + 1))


def capital_letters(text: str) -> bool:
    """Whether it has letters and all are capitals."""
    return text.isupper()


def small_letters(text: str) -> bool:
    """Whether it has letters and none is a capital."""
    return text.islower()


def begins_with(word: str, text: str) -> bool:
    """Whether its first word is ``word``."""
    return words(text)[:1] == [word.lower()]


def ends_with(phrase: str, text: str) -> bool:
    """Whether its last words are ``phrase``, whatever stands behind them but words."""
    wanted = words(phrase)
    return words(text)[-len(wanted) :] == wanted


def no_commas(text: str) -> bool:
    """Whether it has words and no comma."""
    return bool(words(text)) and "," not in text


def fewer_words(limit: int, text: str) -> bool:
    """Whether it has words, but fewer than ``limit``."""
    return 0 < len(words(text)) < limit


def mentions(word: str, text: str) -> bool:
    """Whether ``word`` is one of its words."""
    return word.lower() in words(text)


def yes_or_no(text: str) -> bool:
    """Whether it is "yes" or "no" and nothing else."""
    return words(text) in (["yes"], ["no"])


def json_object(key: str, text: str) -> bool:
    """Whether it is a JSON object, fenced or not, that has ``key``."""
    text = text.strip()
    if fenced := FENCE.match(text):
        text = fenced[1]
    try:
        found = json.loads(text)
    except ValueError:
        return False
    return isinstance(found, dict) and key in found


def words(text: str) -> list[str]:
    """Its words in small letters, without punctuation."""
    return re.findall(r"[\w’'-]*\w", text.lower())


@dataclass(frozen=True)
class Instruction:
    """A request, and whether a reply does as it says."""

    kind: str
    request: str
    kept_by: Check


def _three(kind: str, *asked: tuple[str, Check]) -> list[Instruction]:
    return [Instruction(kind, request, check) for request, check in asked]


INSTRUCTIONS = (
    *_three(
        "one sentence",
        ("Explain in exactly one sentence why people sleep.", one_sentence),
        ("In one sentence, what is a bridge for?", one_sentence),
        ("Describe the sea in a single sentence.", one_sentence),
    ),
    *_three(
        "three items",
        ("Name exactly three fruits as a bulleted list.", three_items),
        ("Give me a list of exactly three tools, each on its own line behind a dash.", three_items),
        ("List three countries in Europe, no more and no fewer, as bullet points.", three_items),
    ),
    *_three(
        "numbered list",
        ("How do I make tea? Answer as a numbered list.", numbered_list),
        ("Write a numbered list of things to take on a walk.", numbered_list),
        ("Give the steps of washing your hands as a numbered list.", numbered_list),
    ),
    *_three(
        "capital letters",
        ("Answer in capital letters only: what colour is grass?", capital_letters),
        ("Wish me a good morning. Use capital letters only.", capital_letters),
        ("Write a short warning about a wet floor, all in capital letters.", capital_letters),
    ),
    *_three(
        "small letters",
        ("Say something kind about dogs. Write in small letters only, without any capital.", small_letters),
        ("Answer in lower case letters only: what do bees make?", small_letters),
        ("Describe winter. Don't use any capital letter.", small_letters),
    ),
    *_three(
        "begin with",
        ('Begin your answer with the word "Clearly". Why is water important?', partial(begins_with, "Clearly")),
        ('What is a good hobby? The first word of your answer must be "Perhaps".', partial(begins_with, "Perhaps")),
        ('Start your reply with the word "Today" and tell me about the weather.', partial(begins_with, "Today")),
    ),
    *_three(
        "end with",
        ('Tell me about trains. End your answer with the words "that is all".', partial(ends_with, "that is all")),
        ('Invite a friend to dinner. Your last word must be "soon".', partial(ends_with, "soon")),
        ('Thank a neighbour in a few words and finish with "your friend".', partial(ends_with, "your friend")),
    ),
    *_three(
        "no commas",
        ("Describe a forest without using any comma.", no_commas),
        ("What do farmers do in spring? Don't use commas.", no_commas),
        ("Tell me about your favourite season. Commas are not allowed.", no_commas),
    ),
    *_three(
        "under 20 words",
        ("What is a clock? Answer in fewer than 20 words.", partial(fewer_words, 20)),
        ("Explain snow in under 20 words.", partial(fewer_words, 20)),
        ("Use less than 20 words to say what a teacher does.", partial(fewer_words, 20)),
    ),
    *_three(
        "mention",
        ('Write two sentences about a garden and mention the word "ladder".', partial(mentions, "ladder")),
        ('Describe a kitchen. Your answer must contain the word "violet".', partial(mentions, "violet")),
        ('Tell me about ships and use the word "lantern" in it.', partial(mentions, "lantern")),
    ),
    *_three(
        "yes or no",
        ("Is ice cold? Answer only yes or no.", yes_or_no),
        ("Can a stone swim? Reply with yes or no and nothing else.", yes_or_no),
        ("Answer with one word, yes or no: is the sun a star?", yes_or_no),
    ),
    *_three(
        "JSON",
        ('Answer with a JSON object with the key "colour" and nothing else: what colour is snow?', partial(json_object, "colour")),
        ('Give a book as JSON with the keys "title" and "author". Write only the JSON.', partial(json_object, "title")),
        ('Reply only with a JSON object: {"name": …} with the name of a river in it.', partial(json_object, "name")),
    ),
)
