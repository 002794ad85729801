"""The demo in a real browser: it loads a tiny model, replies what llama.cpp does, stops when told, and talks to nobody else."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.llamacpp.run import LlamaCpp
from minigpts.demo.__main__ import server_of
from minigpts.demo.contents import ENGINE
from minigpts.exporting import gguf_file
from minigpts.exporting.tokenizer_section import tokenizer_section
from minigpts.model import checkpoint
from minigpts.model.weights import StoredWeights
from tests import tiny
from tests.e2e import browser
from tests.e2e.project import ROOT

NO_ENGINE = not all((ROOT / ".demo" / name).exists() for name, _ in ENGINE.values())
pytestmark = [
    pytest.mark.skipif(browser.missing() is not None, reason=str(browser.missing())),
    pytest.mark.skipif(NO_ENGINE, reason="llama.cpp as WebAssembly isn't in .demo; make demo installs it"),
]
QUESTION, BEGINNING, TYPED = "<b>What</b> is the heart?", "Heart 3: an abnormality of", "And the lung?"
TOKENS = 300  # of each reply: the tiny model never ends one
EMBEDDING = "model.embed_tokens.weight"


def write_model(folder: Path, seed: int) -> SimpleNamespace:
    """A tiny model whose every reply is printable ASCII without an end: the rows of all other tokens are zero."""
    directory = tiny.write_checkpoint(folder / f"checkpoint-{seed}", seed=seed, max_position_embeddings=2048)
    config, stored, tokenizer = checkpoint.load_config(directory), StoredWeights(directory), checkpoint.load_tokenizer(directory)
    weights = dict(stored.items())
    for token in range(config.vocab_size):
        text = tokenizer.decode([token])
        if token in tokenizer.all_special_ids or not (text.isascii() and text.isprintable()):
            weights[EMBEDDING][token] = 0.0
    (folder / f"export-{seed}").mkdir()
    file = folder / f"export-{seed}" / f"tiny-{seed}.gguf"
    gguf_file.write(file, config, stored.shapes, {}, tokenizer_section(directory, config.vocab_size), weights.items())
    return SimpleNamespace(file=file, tokenizer=tokenizer)


def greedy(model: SimpleNamespace, prompt: str | list[dict[str, str]]) -> str:
    """What llama.cpp itself goes on with behind a text, or replies in a chat, which starts without a blank."""
    chat = prompt if isinstance(prompt, str) else model.tokenizer.apply_chat_template(prompt, tokenize=False)
    with LlamaCpp(model.file, context=1024) as llama:
        text = str(model.tokenizer.decode(llama.greedy(llama.tokenize(chat), TOKENS)))
    return text if isinstance(prompt, str) else text.lstrip()


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[SimpleNamespace, SimpleNamespace]:
    folder = tmp_path_factory.mktemp("demo")
    return write_model(folder, 0), write_model(folder, 1)


@pytest.fixture
def address(models: tuple[SimpleNamespace, SimpleNamespace], tmp_path: Path) -> Iterator[str]:
    """The running server."""
    child, parent = models
    speech = tmp_path / "speech.json"
    speech.write_text(json.dumps({"domain": [{"prompt": QUESTION, "asks": True}, {"prompt": BEGINNING, "asks": False}]}))
    flags = {"--exported": child.file.parent, "--parent": parent.file, "--speech": speech, "--engine": ROOT / ".demo"}
    with server_of([str(part) for flag in flags.items() for part in flag] + ["--max-new-tokens", str(TOKENS)]) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.address
        server.shutdown()
        thread.join()


def replies(window: browser.Browser, role: str) -> list[str]:
    script = "return [...document.querySelectorAll(`.turn > .${arguments[0]} .text`)].map((text) => text.textContent)"
    return [str(text) for text in window.run(script, role)]


def click(window: browser.Browser, button: str, done: str) -> None:
    window.run("document.querySelector(arguments[0]).click()", button)
    window.wait(done)


IDLE = "document.getElementById('stop').disabled"
NTH_PROMPT = "#prompts li:nth-child({}) button"


def test_replies_as_llama_cpp_does_beside_its_parent(models, address, tmp_path):
    child, parent = models
    with browser.Browser(1100, 800) as window:
        window.open(address)
        window.wait("document.querySelector('#models .child')?.dataset.state === 'ready'")
        click(window, NTH_PROMPT.format(1), IDLE)
        assert replies(window, "you") == [QUESTION]  # as text: no element came of it
        first = greedy(child, asked(QUESTION))
        assert replies(window, "child") == [first]
        assert "tokens/s · first after" in window.run("return document.querySelector('.figures').textContent")

        click(window, "#models .parent button", "document.querySelector('#models .parent').dataset.state === 'ready'")
        click(window, NTH_PROMPT.format(2), IDLE)  # goes on from the text, in no chat
        assert [replies(window, role)[-1] for role in ("child", "parent")] == [greedy(model, BEGINNING) for model in models]

        window.run("document.getElementById('message').value = arguments[0]", TYPED)
        click(window, "#send", IDLE)
        turns = [*asked(QUESTION), {"role": "assistant", "content": first}, *asked(TYPED)]
        assert replies(window, "child")[-1] == greedy(child, turns)
        assert replies(window, "parent")[-1] == greedy(parent, asked(TYPED))  # which wasn't there for the question

        loaded = window.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert {name for name in loaded if not name.startswith(address)} == set()
        assert window.messages() == []


def test_stops_and_starts_anew_on_a_phone(models, address):
    with browser.Browser(360, 740, dark=True) as window:
        window.open(address)
        window.wait("document.querySelector('#models .child')?.dataset.state === 'ready'")
        window.run(
            "new MutationObserver(() => { if (document.querySelector('.figures')?.textContent) "
            "document.getElementById('stop').click(); })"
            ".observe(document.getElementById('conversation'), { subtree: true, childList: true })"
        )
        click(window, NTH_PROMPT.format(1), f"document.querySelector('.turn .child') && {IDLE}")
        (stopped,), whole = replies(window, "child"), greedy(models[0], asked(QUESTION))
        assert 0 < len(stopped) < len(whole)
        assert whole.startswith(stopped)
        assert window.run("return document.querySelector('.turn .child').dataset.state") == "stopped"
        assert window.run("return document.documentElement.scrollWidth <= innerWidth")
        small = "[...document.querySelectorAll('button')].filter((button) => button.getBoundingClientRect().height < 44)"
        assert window.run(f"return {small}.length") == 0
        assert window.run("return getComputedStyle(document.body).backgroundColor") == "rgb(14, 17, 20)"  # the dark theme's

        click(window, "#new", "!document.querySelector('.turn')")
        window.run("document.getElementById('message').value = arguments[0]", TYPED)
        click(window, "#send", f"document.querySelector('.turn .child') && {IDLE}")
        assert greedy(models[0], asked(TYPED)).startswith(replies(window, "child")[0])  # nothing of the conversation before
