"""What a user sees when something they can fix goes wrong: one line, and a non-zero exit."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(Exception):
    """A problem the user can fix. Its text is one line: what is wrong, where, and what to do."""


def exit_cleanly(main: Callable[[], None]) -> None:
    """Run a stage's ``main``; turn a :class:`UserError` or a file-system refusal into one line and exit code 1."""
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except PermissionError as error:
        sys.exit(f"error: {error.filename}: cannot write here; check its permissions")
    except OSError as error:
        # A full disk or a read-only file system is the user's to fix; anything else keeps its traceback.
        if error.filename is None or not isinstance(error.errno, int):
            raise
        sys.exit(f"error: {error.filename}: {error.strerror}")
