"""Which files of a folder are read as text, said by name, and the sha256 of what was read."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from minigpts.corpus.readers.notes import listed, note
from minigpts.errors import UserError
from minigpts.untrusted import leads_out

# What stands beside a data set and is none of it: a card, a licence. Any case for README, capitals for words that may be titles.
_CARD = re.compile(r"(?:(?i:readme)|LICEN[CS]E|COPYING|NOTICE|CITATION|CHANGELOG|CONTRIBUTING|AUTHORS)(?:[_-][A-Za-z]{2,3})?")


def suffix(path: Path) -> str:
    """The suffix that says how to read a file, in small letters and without that of gzip."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def text_files(path: Path, kinds: Collection[str], param: str, passed_over: Counter[str]) -> list[Path]:
    """The file, or the folder's files of these ``kinds`` in the order of their names, cards and licences only if nothing else is.

    Says on stderr which files of a folder are read and which are not, and counts the latter in ``passed_over``, a hidden folder
    as one. Raises UserError naming ``param`` for a path that is missing or holds no such file.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; {param} must name your text, or be null")
    if path.is_file():
        if suffix(path) not in kinds:
            raise UserError(f"{path}: not a kind of text file that is read here; use {', '.join(sorted(kinds))}")
        return [path]
    found, others, links = _walk(path, passed_over)
    of_kind = [file for file in found if suffix(file) in kinds]
    others += [file for file in found if suffix(file) not in kinds]
    passed_over["files of other kinds"] += len(others)
    passed_over["links out of the folder"] += len(links)
    texts = [file for file in of_kind if not _CARD.fullmatch(file.name.partition(".")[0])] or of_kind
    cards = sorted(set(of_kind) - set(texts))
    passed_over["cards and licences"] += len(cards)
    passed_over += Counter()  # without zeros
    if not texts:
        raise UserError(f"{path}: no text files in this folder; looked for {', '.join(sorted(kinds))}")
    left = {"card or licence; rename it if it is text": cards, "other kind": others, "link out of the folder": links}
    _say(path, texts, left)
    return sorted(texts)


def digest(files: Sequence[Path]) -> str:
    """The sha256 of a file, or of the lines "sha256  name" of several, in hexadecimal."""
    found = []
    for file in files:
        with file.open("rb") as content:
            found.append(hashlib.file_digest(content, "sha256").hexdigest())
    if len(files) == 1:
        return found[0]
    lines = "".join(f"{sha256}  {file.name}\n" for sha256, file in zip(found, files, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def _say(path: Path, texts: Sequence[Path], left: Mapping[str, Sequence[Path]]) -> None:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(Counter(map(suffix, texts)).items()))
    unread = (f"{listed(sorted(str(file.relative_to(path)) for file in files))} ({why})" for why, files in left.items() if files)
    note("; not read: ".join(filter(None, [f"{path}: reads {kinds}", ", ".join(unread)])))


def _walk(path: Path, passed_over: Counter[str]) -> tuple[list[Path], list[Path], list[Path]]:
    """The files below a folder that aren't hidden; what is none: sockets, pipes; and links that lead out of the folder.

    Counts the rest in ``passed_over``.
    """
    files: list[Path] = []
    others: list[Path] = []
    links: list[Path] = []
    seen: set[tuple[int, int]] = set()  # folders by device and inode: a link may lead back to one
    for name, folders, names in os.walk(path, followlinks=True, onerror=_refuse):
        folder = Path(name)
        if (key := (folder.stat().st_dev, folder.stat().st_ino)) in seen:
            passed_over["folders linked twice"] += 1
            folders.clear()
            continue
        seen.add(key)
        passed_over.update("hidden files" for name in [*folders, *names] if name.startswith("."))
        links += [folder / name for name in folders if not name.startswith(".") and leads_out(folder / name, path)]
        folders[:] = sorted(name for name in folders if not name.startswith(".") and folder / name not in links)
        for file in (folder / name for name in names if not name.startswith(".")):
            if file.is_symlink() and not file.exists():
                passed_over["dangling links"] += 1
            elif leads_out(file, path):
                links.append(file)
            else:
                (files if file.is_file() else others).append(file)
    return files, others, links


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror}); check its permissions")
