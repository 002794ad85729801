"""Named totals in the order of what is added, whichever process it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from minigpts import ranks

Names = tuple[str, ...]


class Sums:
    """float64 totals, of which those that are added together have their names together."""

    def __init__(self) -> None:
        """Nothing was added."""
        self.totals: dict[Names, Tensor] = {}
        self._apart: list[tuple[Names, Tensor]] | None = None  # what a batch adds, where another process adds it up

    def add(self, names: Names, values: Tensor) -> None:
        """Add ``values`` (names, …) to the totals of these names."""
        if self._apart is not None:
            self._apart.append((names, values.to("cpu", copy=True)))
            return
        if names not in self.totals:
            self.totals[names] = torch.zeros_like(values, dtype=torch.float64)
        self.totals[names] += values

    def over(self, batches: Sequence[Tensor], run: Callable[[Tensor], object]) -> Iterator[Tensor]:
        """Call ``run`` on every batch and yield the batch, once what it added is in the totals.

        Among several processes each batch is run by one, and the main one adds up: the same additions in the same order. Only
        there are batches yielded and totals made.
        """
        if ranks.count() == 1:
            for batch in batches:
                run(batch)
                yield batch
            return

        def apart(batch: Tensor) -> list[tuple[Names, Tensor]]:
            self._apart = []
            run(batch)
            found, self._apart = self._apart, None
            return found

        for batch, found in zip(batches, ranks.in_order(batches, apart, main_only=True), strict=ranks.is_main()):
            for names, values in found:
                self.add(names, values)
            yield batch

    def by_name(self) -> dict[str, Tensor]:
        """Each total, on the CPU."""
        return {name: total for names, totals in self.totals.items() for name, total in zip(names, totals.cpu(), strict=True)}
