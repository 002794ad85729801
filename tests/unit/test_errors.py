"""What a user can fix is one line; what only we can fix keeps its traceback."""

from __future__ import annotations

import errno

import pytest
import torch

from minigpts.errors import UserError, exit_cleanly


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("a.csv:3: no such column"), "error: a.csv:3: no such column"),
        (PermissionError(errno.EACCES, "Permission denied", "config.json"), "error: config.json: permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: the disk: no space left"),  # as file.write raises it
        (OSError(errno.ENOSPC, "No space left on device", "out.json"), "error: out.json: no space left"),
        (OSError(errno.EROFS, "Read-only file system", "out.json"), "error: out.json: Read-only file system"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "error: the device's memory is full"),
    ],
)
def test_what_a_user_can_fix_is_one_line(error, line):
    def main():
        raise error

    with pytest.raises(SystemExit) as caught:
        exit_cleanly(main)
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError("no errno"), KeyError("acc")])
def test_a_mistake_of_ours_keeps_its_traceback(error):
    def main():
        raise error

    with pytest.raises(type(error)):
        exit_cleanly(main)
