"""What a user sees when something they can fix goes wrong: one line, and a non-zero exit."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")  # controls, line ends, changes of direction


class UserError(Exception):
    """A problem the user can fix. Its text is one line: what is wrong, where, and what to do."""


def shown(text: str, kept: str = "") -> str:
    """The text as a terminal may print it: control characters but the ``kept`` ones are spelled out, as ``\\x1b``."""
    return _UNSEEN.sub(lambda found: found[0] if found[0] in kept else ascii(found[0])[1:-1], text)


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
    """Run a stage's ``main``; turn what a user can fix, disk and device memory included, into one line and exit code 1.

    What in the line would command a terminal, a file's or a column's name, is spelled out.
    """
    try:
        main()
        return
    except (UserError, OSError, RuntimeError) as error:
        line = _line(error)
        if line is None:
            raise
    if "tqdm" in sys.modules:  # a progress bar that is still open (a Trainer's hangs in a cycle) would share the line
        from tqdm import tqdm

        for bar in list(tqdm._instances):  # type: ignore[attr-defined]
            bar.close()
    sys.exit(f"error: {shown(line)}")


def _line(error: Exception) -> str | None:
    """What a user can do about an error; None for a mistake of ours, which keeps its traceback."""
    match error:
        case UserError():
            return str(error)
        case PermissionError():
            return f"{error.filename}: permission denied; check its permissions"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):  # a write to an open file names none
            return f"{error.filename or 'the disk'}: no space left; free some, or move the project's folder"
        case OSError(errno=int()) if error.filename is not None or error.errno in (errno.EFBIG, errno.EIO):  # or a read-only disk
            return f"{error.filename or 'the disk'}: {error.strerror}"
        case RuntimeError() if type(error).__name__ == "OutOfMemoryError":  # torch's; not every stage imports torch
            return "the device's memory is full; lower the section's sequence_length or runtime.batch_tokens"
        case RuntimeError() if "inline_container.cc" in str(error):  # torch.save's, which says no more of a disk
            return "the disk: a checkpoint can't be written whole; free some space, or move the project's folder"
    return None
