"""Work of two kinds on one stream, each on a thread of its own: what is read or encoded next while this is worked on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The items in their order, the next one being made on another thread while the last is used; what making them raises, raised.

    One item at most waits, so memory stays bounded. It pays where both sides mostly leave the interpreter's lock.
    """
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, iterator, end)
            yield item  # type: ignore[misc]
