"""What strangers' files may not do, whoever reads them: terminal escapes, links, bombs, and code that doesn't end."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from minigpts.errors import UserError
from minigpts.untrusted import SMALL, bounded, is_bomb, leads_out, shown


def test_nothing_that_a_terminal_obeys_is_left():
    hostile = "a\x1b]0;title\x07\x1b[2J\x9b31m\r\b\x7fb\n\u202ec\u2066\udc80"
    assert shown(hostile) == "a\\x1b]0;title\\x07\\x1b[2J\\x9b31m\\r\\x08\\x7fb\\n\\u202ec\\u2066\\udc80"


def test_text_of_any_language_is_left_as_it_is():
    text = "naïve façade 🫀👩🏽\u200d⚕️ 心臓 שלום مرحبا “x”"
    assert shown(text) == text
    assert shown("a\n\tb\x1b", kept="\n\t") == "a\n\tb\\x1b"


def test_only_what_is_both_large_and_repetitive_is_a_bomb():
    assert is_bomb(SMALL + 1, SMALL // 1000)
    assert not is_bomb(SMALL, 1)
    assert not is_bomb(100 * SMALL, SMALL)


def test_a_link_may_lead_within_its_folder_and_into_a_cache_that_names_files_by_their_content(tmp_path):
    folder, blobs = tmp_path / "folder", tmp_path / "blobs"
    for path in (folder / "inside.txt", tmp_path / "secret.txt", blobs / ("0f" * 20)):
        path.parent.mkdir(exist_ok=True)
        path.write_text("text")
    out = {"a": folder / "inside.txt", "b": blobs / ("0f" * 20), "c": tmp_path / "secret.txt", "d": Path("/"), "e": Path("nowhere")}
    for name, target in out.items():
        (folder / name).symlink_to(target)
    (tmp_path / "alias").symlink_to(folder)
    for seen in (folder, tmp_path / "alias"):
        assert [name for name in out if leads_out(seen / name, seen)] == ["c", "d"]


def test_what_goes_on_and_on_is_stopped_though_it_catches_everything():
    def stubborn():
        while True:
            try:
                while True:
                    pass
            except Exception:
                continue

    before = signal.getsignal(signal.SIGPROF)
    with pytest.raises(UserError, match=r"^a\.jinja: it takes more than 0\.05 seconds$"), bounded("a.jinja: it", 0.05, 1 << 30):
        stubborn()
    assert signal.getsignal(signal.SIGPROF) is before


def test_what_takes_too_much_memory_is_stopped_and_the_limit_is_lifted():
    with pytest.raises(UserError, match=r"^it takes more than 64 MiB of memory$"), bounded("it", 10, 1 << 26):
        bytearray(1 << 33)
    assert len(bytearray(1 << 27)) == 1 << 27


def test_what_ends_in_time_is_left_alone():
    with bounded("it", 10, 1 << 30):
        found = sum(range(1000))
    assert found == 499500
    assert signal.getitimer(signal.ITIMER_PROF) == (0, 0)
