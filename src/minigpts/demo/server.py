"""A server of a few named files on 127.0.0.1: what isn't in its table doesn't exist, and what it sends may talk to nobody else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from minigpts.errors import UserError

HOST = "127.0.0.1"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' blob: 'wasm-unsafe-eval'",  # the engine starts its threads from blobs of its own
        "worker-src blob:",
        "connect-src 'self' blob:",
        "style-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",  # this and the next let the engine use several threads
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Served:
    """What one path answers with: bytes, or a file as it is when asked for."""

    mime: str
    content: bytes | Path

    def open(self) -> tuple[BinaryIO, int]:
        """The content to read, and its length in bytes."""
        if isinstance(self.content, bytes):
            return BytesIO(self.content), len(self.content)
        file = self.content.open("rb")
        return file, os.fstat(file.fileno()).st_size


class Server(ThreadingHTTPServer):
    """Answers GET and HEAD of the paths in ``table``, and 404 to all else."""

    daemon_threads = True

    def __init__(self, table: Mapping[str, Served], port: int = 0) -> None:
        """Listen on ``port`` of 127.0.0.1; 0 takes a free one. Raises UserError when it is taken."""
        self.table = dict(table)
        try:
            super().__init__((HOST, port), Handler)
        except (OSError, OverflowError) as error:
            raise UserError(f"can't listen on port {port} of {HOST} ({error}); choose another --port") from None

    @property
    def address(self) -> str:
        """The page's address, to open in a browser."""
        return f"http://{HOST}:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "minigpts", ""

    def do_GET(self) -> None:
        """Answer with the content."""
        self._answer(with_content=True)

    def do_HEAD(self) -> None:
        """Answer with the headers alone."""
        self._answer(with_content=False)

    def _answer(self, with_content: bool) -> None:
        if self.headers.get("Host") not in {f"{name}:{self.server.server_port}" for name in (HOST, "localhost")}:
            self.send_error(HTTPStatus.FORBIDDEN)  # another site's name that was made to lead here
            return
        try:
            served = self.server.table[self.path.partition("?")[0]]
            file, length = served.open()
        except (KeyError, OSError):
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with file:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", served.mime)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if with_content:
                self._send(file)

    def _send(self, file: BinaryIO) -> None:
        try:
            shutil.copyfileobj(file, self.wfile, 1 << 20)
        except ConnectionError:  # the reader has closed the page
            self.close_connection = True

    def end_headers(self) -> None:
        """Close the headers with those that every answer has, errors too."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: the terminal shows the address."""
