"""A corpus's documents on disk, in their order: its source is read once, and the documents are then read by their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minigpts import artifacts
from minigpts.corpus.document import Document

if TYPE_CHECKING:
    import pyarrow

BATCH_CHARACTERS = 1 << 20  # of the documents in memory together
BATCH_DOCUMENTS = 1 << 13
COLUMNS = ("text", "group", "source", "plain", "loss_spans")


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """The documents in lists of bounded size."""
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= BATCH_CHARACTERS or len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


class Store:
    """The documents in a parquet file, which :meth:`write` fills."""

    def __init__(self, path: Path) -> None:
        """``path``: of the parquet file; a batch becomes a row group."""
        self.path = path
        self.num_chats = 0

    def write(self, documents: Iterable[Document]) -> Iterator[list[Document]]:
        """Write the documents, and yield each batch as it is written. Raises what reading them raises."""
        with artifacts.table_writer(self.path, COLUMNS) as write:
            for batch in batches(documents):
                write({name: [getattr(document, name) for document in batch] for name in COLUMNS})
                self.num_chats += sum(document.plain is not None for document in batch)
                yield batch

    def codes(self, column: str) -> tuple[NDArray[np.int64], pyarrow.LargeStringArray]:
        """The place of each document's value, (documents,), among the column's distinct values, and those values, sorted."""
        import pyarrow.compute
        import pyarrow.parquet

        # One array, with offsets wide enough for any corpus, and no dictionary: that took ten times the values' memory.
        values = pyarrow.parquet.read_table(self.path, columns=[column]).column(0).cast(pyarrow.large_string()).combine_chunks()
        codes = pyarrow.compute.rank(values, tiebreaker="dense").to_numpy().astype(np.int64) - 1
        return codes, values.take(pyarrow.array(np.unique(codes, return_index=True)[1]))

    def selected(
        self, chosen: NDArray[np.bool_], columns: Iterable[str] = COLUMNS
    ) -> Iterator[tuple[NDArray[np.intp], Mapping[str, pyarrow.ChunkedArray]]]:
        """The numbers of ``chosen`` (documents,) and their columns, a batch at a time."""
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(self.path) as file:
            start = 0
            for group in range(file.num_row_groups):
                mask = chosen[start : start + file.metadata.row_group(group).num_rows]
                if mask.any():
                    rows = file.read_row_group(group, columns=list(columns), use_threads=False).filter(mask)
                    yield start + np.flatnonzero(mask), {name: rows[name] for name in columns}
                start += len(mask)

    def documents(self, numbers: NDArray[np.intp], total: int) -> list[Document]:
        """The documents with these numbers, in the numbers' order, out of ``total``."""
        chosen = np.zeros(total, dtype=np.bool_)
        chosen[numbers] = True
        found: dict[int, Document] = {}
        for those, columns in self.selected(chosen):
            rows: Any = zip(*(columns[name].to_pylist() for name in COLUMNS), strict=True)
            found.update((int(number), Document(*row)) for number, row in zip(those, rows, strict=True))
        return [found[int(number)] for number in numbers]
