"""A page on 127.0.0.1 on which the exported file answers in the browser: ``make demo``, or ``make demo PARENT=1`` with the parent.

llama.cpp runs the file as WebAssembly. Everything comes from this server, and what is typed stays in the browser. Ctrl-C ends.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from minigpts.demo import contents
from minigpts.demo.parent import packaged
from minigpts.demo.server import Server
from minigpts.errors import UserError, exit_cleanly

EXPORTED, SPEECH, ENGINE, PARAMS = Path("data/export"), Path("data/speech/exported.json"), Path(".demo"), Path("params.yaml")


def server_of(argv: Sequence[str] | None) -> Server:
    """The server that the command line asks for, listening, and its one line of text printed."""
    parser = argparse.ArgumentParser(
        prog="python -m minigpts.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--exported", type=Path, default=EXPORTED, help="the folder of the child's file (default: %(default)s)")
    parser.add_argument(
        "--parent",
        type=Path,
        nargs="?",
        const=PARAMS,
        help="a GGUF file that can answer beside the child; without FILE, the one in the package that params.yaml names",
        metavar="FILE",
    )
    parser.add_argument("--speech", type=Path, default=SPEECH, help="replies whose prompts are offered (default: %(default)s)")
    parser.add_argument("--engine", type=Path, default=ENGINE, help="the folder that npm has filled (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="0, the default: a free one")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="tokens of a reply at most (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0, the default: always the most probable token")
    arguments = parser.parse_args(argv)
    if arguments.max_new_tokens < 1 or arguments.temperature < 0:
        raise UserError("--max-new-tokens must be ≥ 1 and --temperature ≥ 0")
    child = contents.exported_file(arguments.exported)
    parent = packaged(PARAMS, arguments.engine) if arguments.parent == PARAMS else arguments.parent
    asked = contents.prompts(arguments.speech, child)
    table = contents.table(arguments.engine, child, parent, asked, arguments.max_new_tokens, arguments.temperature)
    server = Server(table, arguments.port)
    print(f"{child} answers at {server.address} (Ctrl-C ends)", flush=True)
    return server


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until Ctrl-C."""
    with server_of(argv) as server, suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    exit_cleanly(main)
