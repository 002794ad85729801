"""What a user sees when something they can fix goes wrong: one line, and a non-zero exit."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A problem the user can fix. Its text is one line: what is wrong, where, and what to do."""


@contextmanager
def named(ours: object, theirs: object) -> Iterator[None]:
    """Let a UserError that speaks of ``ours``, where something lies for now, speak of ``theirs``, what the user calls it."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(str(ours), str(theirs))) from None


@contextmanager
def blaming(where: object, problem: str) -> Iterator[None]:
    """Turn whatever a library raises over a user's file into a UserError: ``where: problem (what the library said)``.

    A UserError passes as it is. So do full disks, missing permissions and full memory, for which :func:`exit_cleanly` has words.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        system = isinstance(error, OSError) and error.errno is not None
        memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # Python's, torch's
        rust = type(error).__name__ == "PanicException"  # of tokenizers and safetensors; no Exception
        if system or memory or not (rust or isinstance(error, Exception)):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
        said = lines[-1] if lines[0].endswith(":") else lines[0]
        raise UserError(f"{where}: {problem} ({type(error).__name__}: {said})") from None


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
        sys.exit("error: the device's memory is full; lower the section's sequence_length or runtime.batch_tokens")
