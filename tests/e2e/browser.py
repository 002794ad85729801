"""A headless Chromium, driven through its own driver's HTTP interface: nothing to install beside the two programs."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

SECONDS = 120.0  # that a page may take for anything
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")


def missing() -> str | None:
    """Why no browser can be driven here; None where one can."""
    if shutil.which("chromedriver") is None:
        return "no chromedriver here (Debian: chromium-driver)"
    return None if _browser() else "no Chromium here (Debian: chromium)"


def _browser() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


class Browser:
    """A window of the given size; use it in a ``with`` block, which closes it."""

    def __init__(self, width: int, height: int, dark: bool = False) -> None:
        """Start the driver and, through it, the browser."""
        self.process = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
        try:
            self.base = f"http://127.0.0.1:{self._port()}"
            options = {
                "binary": _browser(),
                "args": [*FLAGS, f"--window-size={width},{height}"],
                "mobileEmulation": {"deviceMetrics": _metrics(width, height)},
            }
            wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        except BaseException:
            self.process.kill()
            raise
        self.base += f"/session/{session['sessionId']}"
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("POST", "/goog/cdp/execute", {"cmd": "Emulation.setEmulatedMedia", "params": {"features": scheme}})

    def _port(self) -> int:
        assert self.process.stdout
        for line in self.process.stdout:
            if "started successfully on port" in line:
                return int(line.rstrip(".\n").rpartition(" ")[2])
        raise RuntimeError("chromedriver did not start")

    def __enter__(self) -> Browser:
        """The browser itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the window, and end the driver."""
        try:
            self._call("DELETE", "", None)
        finally:
            self.process.terminate()
            self.process.wait()

    def _call(self, method: str, path: str, body: Any) -> Any:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, content, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None

    def open(self, address: str) -> None:
        """Go to a page."""
        self._call("POST", "/url", {"url": address})

    def run(self, script: str, *arguments: Any) -> Any:
        """What the page's JavaScript returns; ``arguments`` are its ``arguments``."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, condition: str, seconds: float = SECONDS) -> float:
        """Wait until a JavaScript expression is true; gives the seconds it took. Raises AssertionError where it stays false."""
        start = time.perf_counter()
        while not self.run(f"return Boolean({condition})"):
            if time.perf_counter() - start > seconds:
                raise AssertionError(f"not within {seconds} s: {condition}; the page: {self.run('return document.body.innerText')}")
            time.sleep(0.1)
        return time.perf_counter() - start

    def messages(self) -> list[str]:
        """What the console has said, warnings and errors alone."""
        entries = self._call("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("WARNING", "SEVERE")]

    def screenshot(self, path: Path) -> None:
        """Write the window as PNG."""
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot", None)))


def _metrics(width: int, height: int) -> dict[str, Any]:
    return {"width": width, "height": height, "pixelRatio": 1.0, "mobile": width < 600, "touch": width < 600}
