"""The user's own general text, which fine-tuning blends in. It is no part of the domain, so it is not split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minigpts import artifacts
from minigpts.corpus.document import Corpus
from minigpts.corpus.readers import text_files
from minigpts.corpus.store import batches

COLUMNS = text_files.Columns("text", advice="name the text of dataset.general_text so")


def read(path: str | None) -> Corpus | None:
    """The text of a file or a folder, if there is one. Raises UserError naming the param for a path without text files."""
    return None if path is None else text_files.read_corpus(Path(path), COLUMNS, "dataset.general_text")


def write(corpus: Corpus | None, path: Path) -> dict[str, Any]:
    """Write its documents to a table, an empty one for None; gives what the metrics say of it.

    Raises UserError as the reading of local text does, and then leaves an earlier table whole.
    """
    documents = num_bytes = 0
    with artifacts.table_writer(path, ["text"]) as append:
        for batch in batches(corpus.documents) if corpus else ():
            append({"text": [document.text for document in batch]})
            documents += len(batch)
            num_bytes += sum(len(document.text.encode()) for document in batch)
    if corpus is None:
        return {}
    (source,) = corpus.sources.values()
    left_out = dict(getattr(corpus.documents, "dropped", {}))
    return {"general_text": {**source, "documents": documents, "bytes": num_bytes, "left_out": left_out}}
