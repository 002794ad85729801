"""What a stranger's file may not do: unpack to gigabytes, lead out of its folder, or run without end."""

from __future__ import annotations

import ctypes
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType

from minigpts.errors import UserError

# A decompression bomb unpacks to more than this many times its packed size; texts and tables reach a tenth of it,
LARGEST_RATIO = 200
SMALL = 1 << 26  # and to more bytes than these, which harm nobody.

_ONE_AT_A_TIME = threading.RLock()  # the bound on memory is the process's: of two at once the last to end would leave the other's
_BY_CONTENT = re.compile("[0-9a-f]{30,64}")  # names of files in the caches of the hub's client and of DVC


def is_bomb(unpacked: int, packed: int) -> bool:
    """Whether so many unpacked bytes are more than an honest file of ``packed`` bytes would hold."""
    return unpacked > SMALL and unpacked > LARGEST_RATIO * packed


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a path below ``folder`` is a link to somewhere else, other than into a cache that names files by their content."""
    target = path.resolve()
    return not target.is_relative_to(folder.resolve()) and not _BY_CONTENT.fullmatch(target.name)


class _Overtime(BaseException):
    """Raised by the timer; no Exception, so that what runs can't catch it."""


@contextmanager
def bounded(what: str, seconds: float, num_bytes: int) -> Iterator[None]:
    """Raise a UserError, which begins with ``what``, where the block takes longer, or more memory on top of what is taken.

    Any thread may ask. Code in C is interrupted in the main thread alone, where it lets itself be: huge numbers do, regular
    expressions don't. Memory is the whole process's, and bounded where the system tells how much is taken.
    """
    try:
        with _ONE_AT_A_TIME, _timer(seconds), _memory(num_bytes):
            yield
    except _Overtime:
        raise UserError(f"{what} takes more than {seconds:g} seconds") from None
    except MemoryError:
        raise UserError(f"{what} takes more than {num_bytes >> 20:,} MiB of memory") from None


def _timer(seconds: float) -> AbstractContextManager[None]:
    in_main = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")  # Windows has none
    return _signal(seconds) if in_main else _bell(seconds)


@contextmanager
def _signal(seconds: float) -> Iterator[None]:
    """Counts the process's seconds on a processor."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise _Overtime

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def _bell(seconds: float) -> Iterator[None]:
    """Counts seconds of the clock, in any thread."""
    thread, lock, over = ctypes.c_ulong(threading.get_ident()), threading.Lock(), False

    def ring() -> None:
        with lock:
            if not over:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(_Overtime))

    timer = threading.Timer(seconds, ring)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            over = True
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, None)  # one that was on its way
        timer.cancel()


@contextmanager
def _memory(num_bytes: int) -> Iterator[None]:
    taken = Path("/proc/self/statm")  # in pages, the address space first; Linux has it
    if not taken.exists():
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = int(taken.read_text().split()[0]) * resource.getpagesize() + num_bytes
    resource.setrlimit(resource.RLIMIT_AS, (min(limit for limit in (soft, hard, most) if limit >= 0), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
