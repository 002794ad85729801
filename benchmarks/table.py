"""The one form every benchmark reports in."""

from __future__ import annotations

from collections.abc import Sequence

Row = tuple[str, str, str]  # what, measured, goal


def as_markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| what | measured | goal |", "|---|---|---|", *(f"| {what} | {measured} | {goal} |" for what, measured, goal in rows)]
    return "\n".join(lines)


def print_rows(rows: Sequence[Row]) -> None:
    """Show the table on the terminal."""
    print(as_markdown(rows))
