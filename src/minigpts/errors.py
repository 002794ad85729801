"""What a user sees when something they can fix goes wrong: one line, and a non-zero exit."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable


class UserError(Exception):
    """A problem the user can fix. Its text is one line: what is wrong, where, and what to do."""


def exit_cleanly(main: Callable[[], None]) -> None:
    """Run a stage's ``main``; turn what a user can fix, disk and device memory included, into one line and exit code 1."""
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except PermissionError as error:
        sys.exit(f"error: {error.filename}: permission denied; check its permissions")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # a write to an open file names none
            sys.exit(f"error: {error.filename or 'the disk'}: no space left; free some, or move the project's folder")
        # A read-only file system is the user's to fix; anything else keeps its traceback.
        if error.filename is None or not isinstance(error.errno, int):
            raise
        sys.exit(f"error: {error.filename}: {error.strerror}")
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; not every stage imports torch
            raise
        sys.exit("error: the device's memory is full; lower runtime.batch_tokens, which changes no result")
