"""Run as a script: does work in several processes that know of one another as torchrun's do, and says how they ended.

One process imports torch once and forks. Arguments: a folder and, for each piece of work, ``module:function:number:name``. The
function is called with the folder ``name`` below the first, in so many processes, the ``number``; what the first to fail says is in
``name.error`` beside it. Prints one JSON list: for each piece the exit codes of its processes, a signal's negative.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from stages import finetune  # isort: split

import torch
from transformers import Trainer

from minigpts import ranks
from minigpts.model import checkpoint
from minigpts.training import probe, trainer

IMPORTED = (finetune, Trainer, checkpoint, probe, trainer)  # before forking


def free_port() -> int:
    """A port of this machine that no one listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def run(out: Path, work: Callable[[Path], None], number: int) -> list[int]:
    """Do the work in so many processes; gives their exit codes."""
    out.mkdir(exist_ok=True)
    said = out.with_name(f"{out.name}.error")
    shared = {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), ranks.ERROR_FILE: str(said)}
    children = []
    for rank in range(number):
        child = os.fork()
        if child == 0:
            os.environ.update(shared, RANK=str(rank), LOCAL_RANK=str(rank))
            code = 1
            try:
                ranks.launch(lambda: work(out))
                code = 0
            except SystemExit as stop:
                code = int(stop.code or 0)
            finally:
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def main(folder: Path, pieces: list[str]) -> None:
    """Do all of it."""
    torch.set_num_threads(1)
    ended = []
    for piece in pieces:
        module, function, number, name = piece.split(":")
        ended.append(run(folder / name, getattr(importlib.import_module(module), function), int(number)))
    print(json.dumps(ended))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
