"""What the demo serves: the page, the engine's two files, the models, and the settings with the prompts to click."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from minigpts.demo.server import Served
from minigpts.errors import UserError, blaming
from minigpts.evaluation.speech.prompts import Prompt, spread
from minigpts.gguf_layout import read_back

PAGE = {"page.html": "text/html; charset=utf-8", "page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}
# The engine's files in its npm package, and the paths they are served at.
ENGINE = {
    "/wllama.js": ("node_modules/@wllama/wllama/esm/index.js", "text/javascript; charset=utf-8"),
    "/wllama.wasm": ("node_modules/@wllama/wllama/esm/wasm/wllama.wasm", "application/wasm"),
}
ASKING, CONTINUING = 6, 2  # prompts on the page


def exported_file(exported: Path) -> Path:
    """The GGUF file in the folder of ``export``. Raises UserError where there is none."""
    if not exported.exists():
        raise UserError(f"{exported}: no exported file; `make repro` makes it")
    file = read_back.file_in(exported)
    if file is None:
        raise UserError(f"{exported}: no file was exported; set export.formats to [gguf] and run `dvc repro export`")
    return file


def prompts(speech: Path, child: Path) -> list[Prompt]:
    """The prompts to click: held-out ones that the run has asked, or where it hasn't, three by the name of ``child``."""
    asked = []
    if speech.exists():
        with blaming(speech, "not the replies of a run; `dvc repro evaluate_exported` makes them"):
            read = json.loads(speech.read_text(encoding="utf-8")).get("domain") or []
            asked = [Prompt(str(reply["prompt"]), bool(reply["asks"])) for reply in read]
    if not asked:
        topic = child.stem.rpartition("-")[2]
        by_name = (f"List three {topic} terms.", f"Explain a {topic} term in one sentence.", f"Write a short {topic} text.")
        return [Prompt(text, True) for text in by_name]
    return [
        Prompt(text, asks)
        for asks, count in ((True, ASKING), (False, CONTINUING))
        for text in spread([prompt.text for prompt in asked if prompt.asks == asks], count)
    ]


def table(
    engine: Path, child: Path, parent: Path | None, asked: Sequence[Prompt], max_new_tokens: int, temperature: float
) -> dict[str, Served]:
    """Everything that is served, by path. Raises UserError where the engine isn't in the folder ``engine``, or a model is none."""
    models = {"child": child, **({"parent": parent} if parent else {})}
    for path in models.values():
        _require_gguf(path)
    page = files("minigpts.demo")
    settings = {
        "models": {role: {"name": path.stem, "bytes": path.stat().st_size} for role, path in models.items()},
        "prompts": [{"text": prompt.text, "asks": prompt.asks} for prompt in asked],
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
    }
    served = {f"/{name}": Served(mime, (page / name).read_bytes()) for name, mime in PAGE.items()}
    served["/"] = served.pop("/page.html")
    served["/settings.json"] = Served("application/json", _json(settings))
    served |= {f"/{role}.gguf": Served("application/octet-stream", path) for role, path in models.items()}
    return served | {path: Served(mime, _inside(engine, name)) for path, (name, mime) in ENGINE.items()}


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _require_gguf(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise UserError(f"{path}: not a GGUF file")


def _inside(engine: Path, name: str) -> Path:
    """A file of the engine's folder, and of no other."""
    path = (engine / name).resolve()
    if not path.is_file() or not path.is_relative_to(engine.resolve()):
        raise UserError(f"{engine / name}: no such file; `make demo` installs it")
    return path
