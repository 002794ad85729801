"""The exported folder in Transformers.js, in a real browser: the tokens and the reply that transformers gives."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from minigpts.exporting import onnx_files
from minigpts.model import checkpoint
from tests import tiny
from tests.e2e import browser
from tests.e2e.project import ROOT
from tests.unit.exporting import eight_bits

PACKAGES = ROOT / ".demo" / "node_modules"
SCRIPT, RUNTIME = PACKAGES / "@huggingface/transformers/dist/transformers.js", PACKAGES / "onnxruntime-web/dist"
INSTALL = "npm install --prefix .demo --ignore-scripts @huggingface/transformers@4.3.2"
pytestmark = [
    pytest.mark.skipif(eight_bits.MISSING, reason=eight_bits.REASON),
    pytest.mark.skipif(browser.missing() is not None, reason=str(browser.missing())),
    pytest.mark.skipif(not (SCRIPT.exists() and RUNTIME.exists()), reason=f"no Transformers.js in .demo; {INSTALL}"),
]
TEXTS = [*tiny.sentences(3), "two  spaces\n\n 1234567 I'LL", "<|im_start|>user\nWhat?<|im_end|>\n"]
QUESTION = [{"role": "user", "content": "What is the heart?"}]
TOKENS = 24
PAGE = """<!doctype html><script type="module">
import { env, pipeline } from "/transformers.js";
env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = "/";
env.backends.onnx.wasm.wasmPaths = "/runtime/";
try {
  const generator = await pipeline("text-generation", "export");
  const ids = ASKED.texts.map((text) => generator.tokenizer.encode(text));
  const chat = generator.tokenizer.apply_chat_template(ASKED.question, { tokenize: false });
  const options = { max_new_tokens: ASKED.tokens, do_sample: false };
  const [{ generated_text }] = await generator(ASKED.texts[0], options);
  window.found = { ids, chat, reply: generated_text };
} catch (error) {
  window.found = { error: String(error) };
}
</script>"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A checkpoint, and the address of a page that runs it, exported, in Transformers.js."""
    directory, site = eight_bits.write_checkpoint(tmp_path / "checkpoint"), tmp_path / "site"
    (site / "export").mkdir(parents=True)
    onnx_files.write(site / "export", directory)
    (site / "transformers.js").symlink_to(SCRIPT)
    (site / "runtime").symlink_to(RUNTIME)
    asked = json.dumps({"texts": TEXTS, "question": QUESTION, "tokens": TOKENS})
    (site / "index.html").write_text(
        PAGE.replace('<script type="module">', f'<script>ASKED = {asked}</script>\n<script type="module">')
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield directory, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_replies_as_transformers_does(served):
    directory, address = served
    with browser.Browser(800, 600) as window:
        window.open(address)
        window.wait("window.found")
        found = window.run("return window.found")
        loaded = window.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert "error" not in found, found["error"]
    assert {name for name in loaded if not name.startswith(address)} == set()
    tokenizer, model = checkpoint.load_tokenizer(directory), checkpoint.load_model(directory, torch.float32)
    assert found["ids"] == [tokenizer.encode(text) for text in TEXTS]
    assert found["chat"] == tokenizer.apply_chat_template(QUESTION, tokenize=False)
    with torch.inference_mode():
        inputs = tokenizer(TEXTS[0], return_tensors="pt")
        reply = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)[0]
    assert found["reply"] == tokenizer.decode(reply, skip_special_tokens=True)
    assert len(reply) == len(inputs["input_ids"][0]) + TOKENS
