"""The chat says what stock generation says, turn by turn, and its one-line refusals."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from minigpts.errors import UserError, shown
from minigpts.model import checkpoint
from minigpts.reporting import chat
from tests import tiny
from tests.unit.post_processors import POST_PROCESSORS
from tests.unit.reporting.run_files import write_export

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.write_checkpoint(tmp_path / "model")


def said(folder: Path, lines: str, monkeypatch: pytest.MonkeyPatch, *flags: str) -> list[str]:
    return spoken(lines, monkeypatch, "--model", str(folder), *flags)


def spoken(lines: str, monkeypatch: pytest.MonkeyPatch, *flags: str) -> list[str]:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    with pytest.MonkeyPatch.context() as patch:
        printed = io.StringIO()
        patch.setattr(sys, "stdout", printed)
        chat.main(["--max-new-tokens", "6", *flags])
    return printed.getvalue().splitlines()


def stock_replies(folder: Path, messages: list[str]) -> list[str]:
    """The same conversation by stock transformers alone, as a terminal may show it."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)
    turns, replies = [], []
    for message in messages:
        turns.append({"role": "user", "content": message})
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        output = model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
        replies.append(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip())
        turns.append({"role": "assistant", "content": replies[-1]})
    return [shown(reply, kept="\n\t") for reply in replies]


def test_replies_are_those_of_stock_generation_with_the_history(folder, monkeypatch):
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    messages = ["heart lung", "liver?"]
    printed = "\n".join(said(folder, "\n".join(messages) + "\n", monkeypatch))
    for reply in stock_replies(folder, messages):
        assert f"child: {reply or chat.EMPTY}" in printed.replace("child:  ", "child: ")


def test_without_a_template_it_goes_on_from_the_message_with_no_end_token_behind_it(folder, monkeypatch):
    (folder / "chat_template.jinja").unlink()
    tokenizer = checkpoint.load_fast_tokenizer(folder)
    replies = []
    for name in ("bos", "bos and eos"):
        tokenizer.post_processor = POST_PROCESSORS[name][0]
        tokenizer.save(str(folder / "tokenizer.json"))
        replies.append([line for line in said(folder, "The heart\n", monkeypatch) if line.startswith("child:")])
    assert replies[0] == replies[1] != [f"child: {chat.EMPTY}"]


def test_new_forgets_and_quit_ends(folder, monkeypatch):
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    printed = said(folder, "heart\n/new\nheart\n/quit\nliver\n", monkeypatch)
    replies = [line for line in printed if line.startswith("child:")]
    assert len(replies) == 2
    assert replies[0] == replies[1]
    assert "(a new conversation)" in printed


def test_both_answer_where_a_parent_is_named(folder, monkeypatch):
    printed = said(folder, "heart\n", monkeypatch, "--parent", str(folder))
    child, parent = (next(line for line in printed if line.startswith(name)).partition(": ")[2] for name in ("child", "parent"))
    assert child == parent


def test_the_default_child_is_the_file_and_the_checkpoint_where_none_was_exported(tmp_path, monkeypatch):
    """The file has another model's weights, so what reads the wrong ones shows."""
    monkeypatch.chdir(tmp_path)
    child, other = tiny.write_checkpoint(chat.CHECKPOINT), tiny.write_checkpoint(Path("other"), seed=7)
    file = write_export(chat.EXPORTED, child, other)
    (other / "chat_template.jinja").write_text(TEMPLATE)
    (child / "chat_template.jinja").write_text(TEMPLATE)
    (of_file,) = stock_replies(other, ["heart lung"])
    (of_checkpoint,) = stock_replies(child, ["heart lung"])
    assert of_file != of_checkpoint

    def answered(*flags: str) -> tuple[str, str]:
        printed = spoken("heart lung\n", monkeypatch, *flags)
        reply = next(line for line in printed if line.startswith("child:"))
        return printed[0], reply.removeprefix("child:").strip()

    exported = f"The child is {file} ({file.stat().st_size / 1e6:.1f} MB)."
    unrounded = f"The child is {child} ({(child / 'model.safetensors').stat().st_size / 1e6:.1f} MB)."
    assert answered() == (exported, of_file)
    assert answered("--exported", str(chat.EXPORTED)) == (exported, of_file)
    assert answered("--model", str(child)) == (unrounded, of_checkpoint)
    (invitation,) = spoken("", monkeypatch, "--invite")
    assert invitation.startswith(
        f"{exported.removeprefix('The child is ').removesuffix('.')}: talk to it with make chat, or llama-cli"
    )
    file.unlink()
    with pytest.raises(UserError, match="data/export: holds 0 GGUF files"):
        chat.main([])
    (chat.EXPORTED / checkpoint.SKIPPED).write_text("{}")
    assert answered() == (unrounded, of_checkpoint)
    chat.EXPORTED.rename("elsewhere")
    assert answered() == (unrounded, of_checkpoint)


def test_what_a_reply_would_tell_the_terminal_is_spelled_out(folder, capsys):
    """As it comes, token by token: an escape sequence may be cut anywhere."""
    tokenizer = checkpoint.load_tokenizer(folder)
    reply = "Heart\n\tlung\x1b[2J\x1b]0;owned\x07 \u202eeye\x9b1m\r."
    streamer = chat._streamer(tokenizer)
    streamer.put(torch.tensor([[1]]))  # the prompt
    for token in tokenizer(reply, add_special_tokens=False).input_ids:
        streamer.put(torch.tensor([token]))
    streamer.end()
    assert capsys.readouterr().out == "Heart\n\tlung\\x1b[2J\\x1b]0;owned\\x07 \\u202eeye\\x9b1m\\r.\n"


def test_a_full_context_drops_the_oldest_turns(folder, monkeypatch):
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    speaker = chat.Speaker.load("child", folder, 6, 0.0)
    speaker.model.config.max_position_embeddings = 40
    for _ in range(6):
        speaker.answer("heart lung")
    assert 2 <= len(speaker.turns) < 12
    with pytest.raises(UserError, match="shorten it"):
        speaker.answer("heart lung " * 40)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "nowhere"], "nowhere: no such checkpoint; `make repro` makes it"),
        (["--max-new-tokens", "0"], "--max-new-tokens must be ≥ 1"),
    ],
)
def test_refusals(flags, message):
    with pytest.raises(UserError, match=message):
        chat.main(flags)
