"""What the vocabulary lost, for a reader who doesn't know tokenizers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from minigpts import artifacts
from minigpts.reporting.page import Dropped

REASONS = {  # of the column `reason`, in plain words
    None: "dropped",
    "counted": "kept: occurs in the training text often enough",
    "special": "kept: special token",
    "byte": "kept: single byte, so that any text can be written",
    "template": "kept: the chat template needs it",
    "glossary": "kept: a term of the glossary needs it",
    "builds": "kept: a kept token is built from it",
}
SPACE_MARKS = "Ġ▁"  # how byte-level BPE and SentencePiece write a leading space


def dropped_tokens(directory: Path, examples: int = 32) -> Dropped | None:
    """Read the checkpoint's ``pruned_tokens.parquet``; None where it has none.

    The examples are the first dropped ids that are whole English words, so the commonest of the parent's own training text.
    """
    path = directory / "pruned_tokens.parquet"
    if not path.exists():
        return None
    table = artifacts.read_table(path, ("token_id", "token", "new_id", "reason"))
    rows = sorted(zip(table["token_id"], table["token"], table["new_id"], strict=True))
    gone = [token for _, token, new_id in rows if new_id is None or new_id < 0]
    reasons = Counter(REASONS.get(reason, reason) for reason in table["reason"])
    return Dropped(_words(gone)[:examples], dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))))


def _words(tokens: Sequence[str | None]) -> list[str]:
    marked = [token for token in tokens if token and token[0] in SPACE_MARKS]
    return [f"␣{token[1:]}" for token in marked if len(token) > 4 and token[1:].isascii() and token[1:].isalpha()]
