"""Licence texts: paragraphs, families, what is left out, definitions as questions."""

from __future__ import annotations

from collections import Counter

import pytest

from minigpts.corpus.document import normalized
from minigpts.corpus.domains import licences
from minigpts.corpus.domains.licences import Licence
from minigpts.errors import UserError

SPOON = """---
key: spoon-1.0
short_name: Spoon 1.0
category: Copyleft
ignorable_urls:
    - http://spoons.example/
---

                     SPOON PUBLIC LICENSE

Permission is granted to bend the spoon, provided that you keep this
notice in all copies of the spoon and
  that you (a) do not sharpen it, and
(b) return it to the drawer by the evening of the day on which it was
taken.

  --------------------------------

1. Definitions
"Drawer" means the place in which spoons are kept by the owner of a kitchen.
"""

DEFINITIONS = (
    '1.1. "Licensed Work" means the recipe that the cook offers under the terms of this agreement.',
    '1.2. "Contributor" shall mean each person who adds an ingredient or a step to the recipe before it is served.',
    '1.3. "Derived Dish" means any dish that is based upon the recipe, whatever its taste may be.',
    '1.4. "You" (or "Your") means a guest who eats from the plate under this agreement.',
    '1.5. "Recipe" means the recipe that is printed above.',  # too short, and names itself
    '1.6. "Kitchen Works" means all works of the kitchen, including the plates and the knives.',  # names itself
)


def licence(key: str, *paragraphs: str, category: str = "Permissive", language: str = "en") -> Licence:
    return Licence(key, category, language, paragraphs)


def story(start: int, words: int = 60) -> str:
    """A paragraph of invented English that shares no run of words with one that starts elsewhere."""
    return " ".join(f"the w{start + number} of" for number in range(words))


def group(*items: Licence) -> list[str]:
    found = licences.groups(items)
    return [found[item.key] for item in items]


def test_a_file_becomes_paragraphs_without_front_matter_wrapping_and_rulers():
    found = licences.parse("spoon-1.0", SPOON)
    assert (found.key, found.category, found.language) == ("spoon-1.0", "Copyleft", "en")
    assert found.paragraphs == (
        "SPOON PUBLIC LICENSE",
        "Permission is granted to bend the spoon, provided that you keep this notice in all copies of the spoon and",
        "that you (a) do not sharpen it, and",
        "(b) return it to the drawer by the evening of the day on which it was taken.",
        "1. Definitions",
        '"Drawer" means the place in which spoons are kept by the owner of a kitchen.',
    )
    with pytest.raises(UserError, match=r"^fork\.LICENSE: has no front matter"):
        licences.parse("fork", "Forks are free.")


def test_licences_that_share_text_or_a_name_are_one_family():
    spoon = licence("spoon-1.0", story(0), story(1000))
    copy_of_half = licence("fork", story(0), story(2000))
    same_name = licence("spoon-2.0-with-handle", story(3000))
    by_way_of_fork = licence("knife", story(2000))
    other = licence("cup", story(4000))
    found = group(spoon, copy_of_half, same_name, by_way_of_fork, other)
    assert found[:4] == [found[0]] * 4
    assert found[4] != found[0]


def test_what_everybody_writes_makes_no_family():
    disclaimer = story(0)
    many = [licence(f"cup{number}", disclaimer, story(1000 * (number + 1))) for number in range(licences.BOILERPLATE + 1)]
    assert len(set(group(*many))) == len(many)
    assert len(set(group(*many[:-1]))) == 1


def test_repeated_foreign_and_short_passages_are_left_out_and_counted():
    items = licences.used(
        [
            licence("spoon", story(0), story(1000)),
            licence("spoon-draft", story(1000), story(0, 20)),
            licence("cuillere", "Cette licence est le texte de la cuillère, " * 10),
            licence("tiny", "Use it as you like."),
            licence("loeffel", story(5000), language="de"),
            licence("note", story(6000), category="Unstated License"),
        ]
    )
    dropped: Counter[str] = Counter()
    found = list(licences.documents(items, licences.groups(items), dropped))
    assert [document.text for document in found] == [f"{story(0)}\n{story(1000)}"]
    assert dropped == {"short passages": 1, "passages that aren't English": 1, "passages that repeat earlier ones": 1}


def test_a_definition_asks_for_its_term_among_others_of_the_family():
    copied = licence("menu-draft", *DEFINITIONS[:2])
    items = [licence("menu", *DEFINITIONS), copied, licence("other", '"Elsewhere" means a place that no family of ours has.')]
    group_of = licences.groups(items)
    found = list(licences.questions(items, group_of))
    terms = {"Licensed Work", "Contributor", "Derived Dish", "You", "Kitchen Works"}
    assert [question.choices[0] for question in found] == ["Licensed Work", "Contributor", "Derived Dish", "You"]
    assert len({question.id for question in found}) == 4
    for question in found:
        assert question.answer == 0
        assert len(set(question.choices)) == 4
        assert set(question.choices) <= terms
        assert question.group == group_of["menu"]
        assert normalized(question.choices[0]) not in normalized(question.evidence)
    first = found[0]
    assert first.question == (
        "Which term has this definition in a licence? The recipe that the cook offers under the terms of this agreement."
    )
    assert found == list(licences.questions(items, group_of))
