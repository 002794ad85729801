"""The one form every benchmark reports in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minigpts import artifacts

Line = Mapping[str, Any]  # of a CSV
Row = tuple[str, str, str]  # what, measured, target


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def as_markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    return markdown(("what", "measured", "target"), rows)


def merge(path: Path, lines: Sequence[Line], key: Callable[[Line], tuple[Any, ...]]) -> None:
    """Write the CSV with ``lines`` in the place of those of the same key, and all others it has, in order of their keys."""
    earlier = artifacts.read_csv(path) if path.exists() else []
    by_key = {key(line): line for line in (*earlier, *lines)}
    artifacts.write_csv(path, [by_key[place] for place in sorted(by_key)])


def print_rows(rows: Sequence[Row]) -> None:
    """Show the table on the terminal."""
    print(as_markdown(rows))
