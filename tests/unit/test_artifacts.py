"""Replacing a file or a folder, killed before and after every call that touches the disk."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from minigpts import artifacts
from minigpts.errors import UserError

CALLS = [(os, "rename"), (os, "replace"), (os, "unlink"), (os, "rmdir"), (os, "mkdir"), (shutil, "rmtree")]


def contents(path: Path) -> object:
    """A file's text, or a folder's by name."""
    if not path.exists():
        return None
    return path.read_text() if path.is_file() else {file.name: file.read_text() for file in path.iterdir()}


def write(path: Path, what: object) -> None:
    with artifacts.replacing(path) as temporary:
        if isinstance(what, str):
            temporary.write_text(what)
            return
        temporary.mkdir()
        for name, text in what.items():
            (temporary / name).write_text(text)


def killed(action: Callable[[], None], moment: int) -> bool:
    """Run ``action`` in a fork that gets SIGKILL before its ``moment``-th call of CALLS; False if it makes fewer."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    made: list[int] = []

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def counting(*arguments: object, **options: object) -> object:
            made.append(1)
            if len(made) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return counting

    for module, name in CALLS:
        setattr(module, name, counted(getattr(module, name)))
    action()
    os._exit(0)


OLD, NEW = {"a": "old", "b": "old"}, {"a": "new", "c": "new"}
PAIRS = [(OLD, NEW), ("old", "new"), (OLD, "new"), ("old", NEW), (None, NEW), (None, "new")]


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_a_kill_at_any_moment_loses_nothing(old, new, tmp_path):
    moment, kills = 0, 0
    while True:
        moment += 1
        path = tmp_path / str(moment) / "out"
        if old is not None:
            write(path, old)
        if not killed(lambda path=path: write(path, new), moment):
            break
        kills += 1
        aside = path.with_name(".out.old.partial")
        assert contents(path) in (old, new) or (contents(path) is None and contents(aside) == old)
        with pytest.raises(InterruptedError), artifacts.replacing(path):  # one that fails brings back what there was
            raise InterruptedError
        assert contents(path) in (old, new)
        write(path, new)
        assert contents(path) == new
        assert [file.name for file in path.parent.iterdir()] == ["out"]
    assert kills >= 2


def test_a_removal_cut_short_is_never_taken_for_the_old_folder(tmp_path):
    """The kill falls within the removal of the old folder; then the new one is removed too, as DVC does."""
    for moment in range(1, 40):
        path = tmp_path / str(moment) / "out"
        write(path, OLD)
        if not killed(lambda path=path: write(path, NEW), moment):
            break
        if contents(path) == NEW:
            shutil.rmtree(path)
        with pytest.raises(InterruptedError), artifacts.replacing(path):
            raise InterruptedError
        assert contents(path) in (None, OLD)


def test_a_folder_discarded_half_does_not_look_whole(tmp_path):
    folder = tmp_path / "state"
    for moment in range(1, 40):
        folder.mkdir(exist_ok=True)
        for name in OLD:
            (folder / name).write_text("old")
        if not killed(lambda: artifacts.discard(folder), moment):
            break
        assert contents(folder) in (None, OLD)
    assert moment > 3
    assert not list(tmp_path.iterdir())


TABLE = {"text": [f"text {number}" for number in range(2000)]}
WRITTEN: dict[str, tuple[Callable[[Path], None], Callable[[Path], object]]] = {
    "a.json": (lambda path: artifacts.write_json(path, TABLE), artifacts.read_json),
    "a.jsonl": (lambda path: artifacts.write_jsonl(path, [TABLE]), artifacts.read_jsonl),
    "a.csv": (lambda path: artifacts.write_csv(path, [{"a": "é" * 99}]), artifacts.read_csv),
    "a.parquet": (lambda path: artifacts.write_table(path, TABLE), lambda path: artifacts.read_table(path, ["text"])),
    "streamed.parquet": (
        lambda path: artifacts.write_table(path, TABLE),
        lambda path: list(artifacts.stream_column(path, "text")[1]),
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_damaged_file_of_a_stage_is_one_line_that_says_how_to_make_it_again(tmp_path, name):
    path, (write, read) = tmp_path / name, WRITTEN[name]
    write(path)
    whole = path.read_bytes()
    read(path)
    damages = {"short": whole[:-3], "half": whole[: len(whole) // 2], "no text": b"\xff" + whole[1:]}
    for damage in {"a.csv": ["no text"], "a.parquet": ["short", "half"], "streamed.parquet": ["short", "half"]}.get(name, damages):
        path.write_bytes(damages[damage])
        with pytest.raises(
            UserError, match=rf"^{path}: not a whole file of its kind; run `dvc repro` to make it again \("
        ) as caught:
            read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "layer,width\n", "layer,width\n0,96\n1\n", "layer,width\n0,96,1\n"])
def test_a_curve_cut_short_is_refused(text, tmp_path):
    path = tmp_path / "layer_widths.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=r"layer_widths\.csv: not a whole file"):
        artifacts.read_csv(path)
