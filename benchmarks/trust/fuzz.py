"""Feed every reader of strangers' files with damaged ones, and hold it to one law: one line, or a right result.

A reader may refuse a file in one line, or read what it says, row for row. It may not raise anything else, take 10 s on a processor
or 2 GiB of memory, or lose a row without counting it. ``python -m benchmarks.trust.fuzz --examples 10000``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from types import FrameType

import hypothesis
from hypothesis import HealthCheck, Phase

from benchmarks.table import merge
from benchmarks.trust import readers
from benchmarks.trust.readers import Input, Reader
from minigpts.errors import exit_cleanly, shown

SECONDS, BYTES = 10, 2 << 30
RESULTS = Path(__file__).parents[1] / "results/fuzz.csv"


class Hang(BaseException):
    """Raised by the timer; no Exception, so that no reader catches it."""


@dataclass
class Tally:
    """What came of a reader's inputs."""

    outcomes: Counter[str] = field(default_factory=Counter)  # "read", "refused", "wrong"
    found: dict[str, Input] = field(default_factory=dict)  # what breaks the law, by kind, with the smallest input that does

    def add(self, kind: str, given: Input) -> None:
        """Note an input that breaks the law."""
        self.outcomes["wrong"] += 1
        if kind not in self.found or len(given[1]) < len(self.found[kind][1]):
            self.found[kind] = given


def fuzz(reader: Reader, examples: int, folder: Path, seed: int | None = None) -> Tally:
    """Give the reader damaged files, each in the otherwise empty ``folder``; without a seed always the same ones."""
    tally = Tally()
    settings = hypothesis.settings(
        max_examples=max(int(examples * reader.share), 1),
        derandomize=seed is None,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )

    @settings
    @hypothesis.given(reader.inputs)
    def every(given: Input) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / given[0]).write_bytes(given[1])

        def read() -> None:
            reader.read(folder / given[0])

        try:
            with _limited():
                exit_cleanly(read)
            tally.outcomes["read"] += 1
        except SystemExit as stop:
            if stop.code == shown(str(stop.code)):
                tally.outcomes["refused"] += 1
            else:
                tally.add(f"an error line that a terminal obeys: {stop.code!r:.200}", given)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic of Rust is no Exception
            tally.add(_kind(error), given)

    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):  # the readers' notes
        (every if seed is None else hypothesis.seed(seed)(every))()
    return tally


def _kind(error: BaseException) -> str:
    """The exception and the project's last line that it came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/minigpts/" in frame.filename]
    at = f"{frames[-1].filename.partition('/minigpts/')[2]}:{frames[-1].lineno}" if frames else "no line of ours"
    return f"{type(error).__name__} at {at}: {str(error)[:200]}" if not frames else f"{type(error).__name__} at {at}"


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Raise Hang or MemoryError within the block for one that takes too much."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, hard))
    before = signal.signal(signal.SIGVTALRM, ring)  # a template's own bound uses SIGPROF
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS + 2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _apart(reader: Reader, examples: int, seed: int, folder: Path) -> Tally:
    """The same in a process of its own, whose libraries say nothing; one that dies is a finding."""
    context = get_context("fork")  # what was imported needs no second import
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sender.send(fuzz(reader, examples, folder, seed))

    process = context.Process(target=child)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        last = next(folder.iterdir())
        return Tally(found={f"the process died ({process.exitcode})": (last.name, last.read_bytes())})
    finally:
        process.join()


def main(argv: Sequence[str] | None = None) -> None:
    """Print and keep a line a reader, and the inputs that break the law; exit with 1 where one does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=10_000, help="for each reader of rows; a twentieth for those of models")
    parser.add_argument("--only", nargs="*", default=[], help="readers by name")
    parser.add_argument("--seed", type=int, default=0, help="another one makes other inputs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="CSV file of one row a reader")
    parser.add_argument("--keep", type=Path, default=Path(".scratch/fuzz"), help="folder for inputs that show a finding")
    arguments = parser.parse_args(argv)
    number = 0
    with tempfile.TemporaryDirectory() as scratch:
        known = readers.readers(Path(scratch))
        for name in arguments.only or known:
            tally = _apart(known[name], arguments.examples, arguments.seed, Path(scratch) / "input")
            counts = {outcome: tally.outcomes[outcome] for outcome in ("read", "refused", "wrong")}
            row = {"reader": name, "inputs": tally.outcomes.total(), **counts}
            merge(arguments.out, [row], lambda row: (row["reader"],))
            print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            for kind, (file, content) in tally.found.items():
                number += 1
                path = arguments.keep / f"{number}-{file}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                print(f"  {path}: {kind}", flush=True)
    sys.exit(1 if number else 0)


if __name__ == "__main__":
    main()
