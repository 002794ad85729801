"""The machine: where tensors live, how many threads work on them, how much memory there is, and memory that goes back."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import TYPE_CHECKING

from minigpts.errors import UserError

if TYPE_CHECKING:
    import torch

    from minigpts.params import Runtime

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


def device(runtime: Runtime) -> torch.device:
    """The device to compute on (CUDA where there is one, else the CPU), with ``runtime.num_threads`` applied."""
    import torch

    if runtime.num_threads is not None:
        torch.set_num_threads(runtime.num_threads)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def computed_on(where: torch.device) -> dict[str, str | int | None]:
    """What of the machine the last digits of a result depend on, for the metrics: ``device`` ("cpu", or the GPU's name),
    ``num_threads`` and ``instructions`` (the CPU's vector extension as torch uses it); both null on a GPU."""
    import torch

    if where.type == "cuda":
        return {"device": torch.cuda.get_device_name(where), "num_threads": None, "instructions": None}
    instructions = torch.backends.cpu.get_cpu_capability()
    return {"device": where.type, "num_threads": torch.get_num_threads(), "instructions": instructions}


def available_memory(where: torch.device) -> int:
    """Bytes that are free on a GPU, or that this machine can give without swapping."""
    import psutil  # type: ignore[import-untyped]
    import torch

    return torch.cuda.mem_get_info(where)[0] if where.type == "cuda" else psutil.virtual_memory().available


def require_memory(needed: float, where: torch.device, what: str, instead: str) -> None:
    """Raise a UserError where ``what`` takes more bytes than there are; ``needed`` is the least that it can do with."""
    free = available_memory(where)
    if needed > free:
        raise UserError(f"{what} needs at least {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free; {instead}")


def keep_large_blocks_apart() -> None:
    """Have glibc map every block of 1 MB and more by itself from now on, so that it goes back to the system once it is freed.

    By default it takes blocks of up to 32 MB from its heap, where what was freed between others stays resident.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, 1 << 20)
