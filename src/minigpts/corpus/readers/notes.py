"""What a reader decided, said on stderr: one line for each decision, however often a corpus is read."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence

from tqdm import tqdm

from minigpts.errors import shown

NAMED = 6  # files or columns in one line


@functools.cache
def note(line: str) -> None:
    """Print ``line`` on stderr, once a process, above a progress bar; what in it would move a terminal's cursor is spelled out."""
    tqdm.write(shown(line), file=sys.stderr)


def listed(names: Sequence[str]) -> str:
    """The first ``NAMED`` names and the number of the others."""
    more = [f"and {len(names) - NAMED:,} more"] if len(names) > NAMED else []
    return ", ".join([*names[:NAMED], *more])
