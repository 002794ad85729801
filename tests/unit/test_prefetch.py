"""Items come in order, one ahead and no more, and what goes wrong while they are made is raised where they are used."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from minigpts.prefetch import ahead


def test_in_order_and_at_most_one_is_made_ahead():
    made: list[int] = []
    threads = set()

    def items() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            threads.add(threading.current_thread())
            yield number

    used = []
    for number in ahead(items()):
        assert len(made) <= len(used) + 2  # this one and the next
        used.append(number)
    assert used == list(range(20)) == made
    assert threading.current_thread() not in threads
    assert list(ahead([])) == []


def test_what_making_them_raises_comes_out_after_what_was_made():
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    made = ahead(items())
    assert next(made) == 1
    with pytest.raises(ValueError, match="broken"):
        next(made)


def test_one_who_stops_early_leaves_no_thread_behind():
    threads = set()

    def numbers() -> Iterator[int]:
        for number in range(100):
            threads.add(threading.current_thread())
            yield number

    items = ahead(numbers())
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined]
    (thread,) = threads
    assert not thread.is_alive()
