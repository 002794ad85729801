"""What strangers' files may not do, whoever reads them: links, bombs, and code that doesn't end."""

from __future__ import annotations

import resource
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from minigpts.errors import UserError
from minigpts.untrusted import SMALL, bounded, is_bomb, leads_out


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


def stubborn():
    while True:
        try:
            while True:
                pass
        except Exception:
            continue


def within_a_twentieth():
    with bounded("a.jinja: it", 0.05, 1 << 30):
        stubborn()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_goes_on_and_on_is_stopped_in_any_thread_though_it_catches_everything(elsewhere):
    with ThreadPoolExecutor(1) as pool, pytest.raises(UserError, match=r"^a\.jinja: it takes more than 0\.05 seconds$"):
        pool.submit(within_a_twentieth).result() if elsewhere else within_a_twentieth()


def test_numbers_without_end_are_stopped():
    with pytest.raises(UserError, match=r"^it takes more than 0\.05 seconds$"), bounded("it", 0.05, 1 << 30):
        10**10 ** int("9")


def over_and_on():
    with bounded("it", 0.05, 1 << 30):
        pass
    with suppress(UserError), bounded("it", 0.05, 1 << 30):
        time.sleep(0.06)  # no Python code, so the bell comes as the block ends
    deadline = time.monotonic() + 0.12
    while time.monotonic() < deadline:
        pass
    return "on"


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_bound_that_is_over_rings_no_more(elsewhere):
    with ThreadPoolExecutor(1) as pool:
        assert (pool.submit(over_and_on).result() if elsewhere else over_and_on()) == "on"


def test_what_takes_too_much_memory_is_stopped_and_the_limit_is_lifted():
    with pytest.raises(UserError, match=r"^it takes more than 64 MiB of memory$"), bounded("it", 10, 1 << 26):
        bytearray(1 << 33)
    assert len(bytearray(1 << 27)) == 1 << 27


def test_bounds_of_two_threads_that_overlap_leave_no_limit():
    begun, before = threading.Event(), resource.getrlimit(resource.RLIMIT_AS)

    def first() -> None:
        with bounded("it", 10, 1 << 30):
            begun.set()
            time.sleep(0.05)  # the other begins meanwhile, or waits

    def second() -> None:
        begun.wait()
        with bounded("it", 10, 1 << 30):
            time.sleep(0.1)

    with ThreadPoolExecutor(2) as pool:
        for work in [pool.submit(first), pool.submit(second)]:
            work.result()
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_what_ends_in_time_is_left_alone():
    with bounded("it", 10, 1 << 30):
        found = sum(range(1000))
    assert found == 499500
