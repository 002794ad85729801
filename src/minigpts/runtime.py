"""The machine: where tensors live, how many threads work on them, and memory that goes back."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from minigpts.params import Runtime


def device(runtime: Runtime) -> torch.device:
    """The device to compute on (CUDA where there is one, else the CPU), with ``runtime.num_threads`` applied."""
    import torch

    if runtime.num_threads is not None:
        torch.set_num_threads(runtime.num_threads)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def return_freed_memory() -> None:
    """Give freed memory back to the system, where glibc would keep blocks of up to 32 MB for later."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
