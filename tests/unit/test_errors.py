"""What a user can fix is one line; what only we can fix keeps its traceback."""

from __future__ import annotations

import errno
import sys

import pytest
import torch
from tqdm import tqdm

from minigpts.errors import UserError, blaming, exit_cleanly, shown


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("a.csv:3: no such column"), "error: a.csv:3: no such column"),
        (PermissionError(errno.EACCES, "Permission denied", "config.json"), "error: config.json: permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: the disk: no space left"),  # as file.write raises it
        (OSError(errno.ENOSPC, "No space left on device", "out.json"), "error: out.json: no space left"),
        (OSError(errno.EFBIG, "File too large"), "error: the disk: File too large"),
        (OSError(errno.EROFS, "Read-only file system", "out.json"), "error: out.json: Read-only file system"),
        (UserError("\x1b[2J\u202e.csv:1: two\nlines"), "error: \\x1b[2J\\u202e.csv:1: two\\nlines"),
        (PermissionError(errno.EACCES, "Permission denied", "\x1b]0;a\x07"), "error: \\x1b]0;a\\x07: permission denied"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), "error: the disk: a checkpoint"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "error: the device's memory is full"),
    ],
)
def test_what_a_user_can_fix_is_one_line(error, line):
    def main():
        raise error

    with pytest.raises(SystemExit) as caught:
        exit_cleanly(main)
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


def test_the_line_starts_below_an_unfinished_progress_bar(capfd):
    class Trainer:
        def __init__(self):
            self.bar, self.itself = tqdm(total=2, file=sys.stderr), self  # as the Hugging Face Trainer and its callbacks

    def main():
        Trainer().bar.update()
        raise UserError("a.csv: no table")

    with pytest.raises(SystemExit) as caught:
        exit_cleanly(main)
    print(caught.value, file=sys.stderr)
    assert "\nerror: a.csv: no table" in capfd.readouterr().err


def test_nothing_that_a_terminal_obeys_is_left():
    hostile = "a\x1b]0;title\x07\x1b[2J\x9b31m\r\b\x7fb\n\u202ec\u2066\udc80"
    assert shown(hostile) == "a\\x1b]0;title\\x07\\x1b[2J\\x9b31m\\r\\x08\\x7fb\\n\\u202ec\\u2066\\udc80"


def test_text_of_any_language_is_left_as_it_is():
    text = "naïve façade 🫀👩🏽\u200d⚕️ 心臓 שלום مرحبا “x”"
    assert shown(text) == text
    assert shown("a\n\tb\x1b", kept="\n\t") == "a\n\tb\\x1b"


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError("no errno"), KeyError("acc")])
def test_a_mistake_of_ours_keeps_its_traceback(error):
    def main():
        raise error

    with pytest.raises(type(error)):
        exit_cleanly(main)


class PanicException(BaseException):
    """As libraries written in Rust raise it."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("relish"), "KeyError: 'relish'"),
        (PanicException("no entry\nfound"), "PanicException: no entry"),
        (ValueError("Validation error:\n    ValueError: head_dim is 7"), "ValueError: ValueError: head_dim is 7"),
        (OSError("no such model"), "OSError: no such model"),  # transformers' own, of no system call
        (RuntimeError(), "RuntimeError: no message"),
    ],
)
def test_what_a_library_raises_over_a_file_is_one_line_that_names_it(error, said):
    with pytest.raises(UserError) as caught, blaming("a/config.json", "not readable"):
        raise error
    assert str(caught.value) == f"a/config.json: not readable ({said})"


@pytest.mark.parametrize(
    "error",
    [
        UserError("a/b.json: no such file"),
        OSError(errno.ENOSPC, "No space left on device"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        KeyboardInterrupt(),
    ],
)
def test_what_is_not_the_files_fault_is_not_blamed_on_it(error):
    with pytest.raises(type(error)) as caught, blaming("a/config.json", "not readable"):
        raise error
    assert caught.value is error
