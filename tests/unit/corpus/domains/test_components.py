"""Components equal what following every chain of pairs by hand finds."""

from __future__ import annotations

import random

from minigpts.corpus.domains.components import first_of_component


def by_hand(items: list[str], pairs: list[tuple[str, str]]) -> dict[str, str]:
    found = {item: {item} for item in items}
    for one, other in pairs:
        joined = found[one] | found[other]
        for item in joined:
            found[item] = joined
    return {item: min(component) for item, component in found.items()}


def test_every_item_is_named_by_the_first_of_those_it_hangs_together_with():
    chance = random.Random(0)
    items = [f"item {number:03}" for number in range(300)]
    pairs = [(chance.choice(items), chance.choice(items)) for _ in range(150)]
    expected = by_hand(items, pairs)
    assert first_of_component(items, pairs) == expected and 100 < len(set(expected.values())) < 200
    assert first_of_component(items, pairs * 256) == expected
    assert first_of_component(items, []) == {item: item for item in items} and first_of_component([], []) == {}
