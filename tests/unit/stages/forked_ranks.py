"""Run as a script: runs stages in 1, 2 and 4 processes that know of one another as torchrun's do, and says what they wrote.

One process imports torch once and forks for each. Arguments: a folder, ``module:function``, which is called with the folder of an
out and does a stage's work, and numbers of processes. Prints one JSON object: number -> exit codes of its processes. What the
function writes for a number lies in the folder of that name; in an ``error`` file beside it what the first that failed says.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import Trainer

from minigpts import ranks
from minigpts.model import checkpoint
from minigpts.training import probe, trainer

IMPORTED = (Trainer, checkpoint, probe, trainer)  # before forking


def free_port() -> int:
    """A port of this machine that no one listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def run(folder: Path, work: Callable[[Path], None], number: int) -> list[int]:
    """Do the work in so many processes; gives their exit codes."""
    out, port = folder / str(number), free_port()
    out.mkdir()
    shared = {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), ranks.ERROR_FILE: f"{out}.error"}
    children = []
    for rank in range(number):
        child = os.fork()
        if child == 0:
            os.environ.update(shared, RANK=str(rank), LOCAL_RANK=str(rank))
            code = 1
            try:
                ranks.run(lambda: work(out))
                code = 0
            except SystemExit as stop:
                code = int(stop.code or 0)
            finally:
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def main(folder: Path, function: str, numbers: list[int]) -> None:
    """Do all runs."""
    torch.set_num_threads(1)
    module, _, name = function.partition(":")
    work = getattr(importlib.import_module(module), name)
    print(json.dumps({number: run(folder, work, number) for number in numbers}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], [int(number) for number in sys.argv[3:]])
