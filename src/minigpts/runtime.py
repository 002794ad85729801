"""Prepares torch for the machine it finds: where tensors live and how many threads work on them."""

from __future__ import annotations

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
