"""Detects a text file's encoding: one for the whole file, checked to its last byte, so that no character is misread silently."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from minigpts.corpus.readers.notes import note
from minigpts.errors import UserError
from minigpts.untrusted import LARGEST_RATIO, is_bomb

MARKS = {  # UTF-32's little-endian mark begins with UTF-16's
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
DEFAULT = "cp1252"  # where others are as likely: it is by far the commonest
ONE_BYTE = (DEFAULT, "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "koi8_r")
TWO_BYTES = ("gb18030", "cp950", "cp932", "euc_jp", "cp949")
ACCIDENTAL = 8  # characters; a line of two-byte text with fewer may be valid UTF-8 by accident ("毛" in GBK is "ë")
SAMPLE = 1 << 16  # bytes in lines that aren't UTF-8, enough to tell by
LONGEST_LINE = 1 << 26  # bytes of a line in an old encoding
_BLOCK = 1 << 20


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked if its name ends in .gz. Raises UserError for a broken gzip file, or one that can't be read."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            yield file  # type: ignore[misc]
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a whole gzip file ({error}); make it or fetch it again") from None
    except PermissionError:
        raise UserError(f"{path}: cannot be read; check its permissions") from None


def encoding_of(path: Path) -> str:
    """Python's name of the encoding: that of its mark, else UTF-8, else the likeliest old one, which is reported on stderr.

    Memory holds a block or a line. Raises UserError naming the file and the line for a file that isn't text, is in two encodings
    or in none that is known, for a gzip file that unpacks to far more than text does, and as :func:`opened`.
    """
    line, unpacked = 1, 0
    with opened(path) as file:
        block = file.read(_BLOCK)
        marked = next((name for mark, name in MARKS.items() if block.startswith(mark)), None)
        if marked is None and block.count(0) * 100 > len(block):
            raise UserError(f"{path}: full of NUL bytes: not text, or UTF-16 without its mark; convert it to UTF-8")
        decoder = codecs.getincrementaldecoder(marked or "utf-8")()
        try:
            while block:
                line += decoder.decode(block).count("\n")
                block, unpacked = file.read(_BLOCK), unpacked + len(block)
                if is_bomb(unpacked, path.stat().st_size):
                    raise UserError(f"{path}: unpacks to more than {LARGEST_RATIO} times its size, as no text does")
            decoder.decode(b"", final=True)
            return marked or "utf-8"
        except UnicodeDecodeError as error:
            line += error.object[: error.start].decode(error.encoding).count("\n")
    if marked is not None:
        raise UserError(f"{path}:{line}: not {marked.upper()}, as which the file begins; convert the file to UTF-8")
    encoding = _old_encoding(path)
    note(f"{path}: not UTF-8; read as {encoding}, convert it if that is wrong")
    return encoding


def _old_encoding(path: Path) -> str:
    """The encoding of a file that isn't UTF-8, detected from its lines beyond ASCII."""
    from charset_normalizer import from_bytes

    sample = bytearray()
    wrong = accidental = utf8 = 0  # the first line, from 1, that isn't UTF-8, that may be by accident, and that is
    for number, raw in _lines(path):
        try:
            length = sum(character > "\x7f" for character in raw.decode())
        except UnicodeDecodeError:
            wrong = wrong or number
            if len(sample) < SAMPLE:
                sample += raw
        else:
            accidental = accidental or number
            utf8 = utf8 or number * (length >= ACCIDENTAL)
    matches = from_bytes(bytes(sample), cp_isolation=[*ONE_BYTE, *TWO_BYTES])
    best = matches.best()
    if best is None:
        raise UserError(f"{path}:{wrong}: not UTF-8, nor in another encoding that is known here; convert the file to UTF-8")
    likeliest = [match for match in matches if (match.chaos, match.coherence) == (best.chaos, best.coherence)]
    encoding = DEFAULT if any(DEFAULT in match.could_be_from_charset for match in likeliest) else best.encoding
    if other := accidental if encoding in ONE_BYTE else utf8:
        raise UserError(f"{path}:{wrong}: not UTF-8, which line {other} is; convert the file to one encoding")
    for number, raw in _lines(path):
        try:
            raw.decode(encoding)
        except UnicodeDecodeError:
            raise UserError(f"{path}:{number}: not {encoding}, which line {wrong} seems to be; convert the file to UTF-8") from None
    return encoding


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines with bytes beyond ASCII."""
    with opened(path) as file:
        for number, raw in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), start=1):
            if len(raw) == LONGEST_LINE:
                raise UserError(f"{path}:{number}: a line of {LONGEST_LINE:,} bytes that isn't UTF-8; convert the file to UTF-8")
            if not raw.isascii():
                yield number, raw
