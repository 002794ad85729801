"""A file's encoding is told right, or refused by its line; never guessed line by line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from minigpts.corpus.readers import encodings, lines
from minigpts.errors import UserError

WESTERN = "Die Münchner Straße ist schön.\nThe patient’s “café” costs €5.\nÉl comió una manzana en España; são João, fête.\n"
POLISH = "Zażółć gęślą jaźń, a lekarz się uśmiecha.\nPacjent leży w łóżku i źle śpi.\n"
RUSSIAN = "Сердце бьётся быстро. Пациент жалуется на боль.\n"
CHINESE = "心脏病患者需要定期检查，医生建议多运动。\n"
TAIWANESE = "心臟病患者需要定期檢查，醫生建議多運動，多休息。\n我們明天再來看看。\n"
JAPANESE = "心臓病の患者は定期的に検査を受ける必要があります。\n"
KOREAN = "심장병 환자는 정기적으로 검사를 받아야 합니다.\n"


def write(folder: Path, content: bytes, name: str = "a.txt") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_marks_and_utf8_are_silent(tmp_path, capsys, encoding, name):
    path = write(tmp_path, (WESTERN + CHINESE).encode(encoding), name)
    assert encodings.encoding_of(path) == encoding
    assert [line for _, line in lines.numbered(path)] == (WESTERN + CHINESE).splitlines(keepends=True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (WESTERN, "cp1252"),
        ("café", "cp1252"),
        ("It’s", "cp1252"),
        (POLISH, "cp1250"),
        ("Dose: 5 µg, 20 °C ± 2", "cp1252"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8_r"),
        (CHINESE, "gb18030"),
        (TAIWANESE, "cp950"),
        (JAPANESE, "cp932"),
        (KOREAN, "cp949"),
    ],
)
def test_old_encodings_are_read_right_and_said_once(tmp_path, capsys, text, encoding):
    path = write(tmp_path, f"In ASCII at first\n{text}".encode(encoding))
    for _ in range(2):
        assert "".join(lines.blocks(path)) == f"In ASCII at first\n{text}"
    assert capsys.readouterr().err == f"{path}: not UTF-8; read as {encoding}, convert it if that is wrong\n"


def test_two_byte_text_may_be_valid_utf8_by_accident(tmp_path):
    text = CHINESE + "毛模\n" + CHINESE
    assert "毛模".encode("gb18030").decode("utf-8") == "ëģ"
    assert "".join(lines.blocks(write(tmp_path, text.encode("gb18030")))) == text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"first\ncaf\xc3\xa9\ncaf\xe9\n", ":3: not UTF-8, which line 2 is"),
        (b"first\ncaf\xe9\ncaf\xc3\xa9\n", ":2: not UTF-8, which line 3 is"),
        ((CHINESE * 3).encode("gb18030") + CHINESE.encode(), ":1: not UTF-8, which line 4 is"),
        (b"\xef\xbb\xbffirst\ncaf\xe9\n", ":2: not UTF-8-SIG, as which the file begins"),
        ("first\nsecond\n".encode("utf-16") + b"\x00", ":3: not UTF-16, as which the file begins"),
        (("first\n" + "上" * 20 + "\n").encode("utf-16") + b"\x00\xdc", ":3: not UTF-16"),
        ("first\nsecond\n".encode("utf-16-le"), ": full of NUL bytes"),
        (b"PK\x03\x04\x00\x00\x00" * 100, ": full of NUL bytes"),
        (bytes(range(1, 256)) * 20, ":2: not UTF-8, nor in another encoding that is known"),
    ],
)
def test_files_in_two_encodings_or_none_are_named_by_their_lines(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(UserError) as caught:
        next(lines.blocks(path))
    assert str(caught.value).startswith(f"{path}{message}") and "\n" not in str(caught.value)


def test_a_line_past_the_sample_that_the_encoding_cannot_hold_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(encodings, "SAMPLE", 100)
    path = write(tmp_path, WESTERN.encode("cp1252") * 10 + b"\x81\xe9\n")
    with pytest.raises(UserError, match=r"a\.txt:31: not cp1252, which line 1 seems to be"):
        encodings.encoding_of(path)


def test_an_endless_line_in_an_old_encoding_is_refused_by_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr(encodings, "LONGEST_LINE", 1000)
    with pytest.raises(UserError, match=r"a\.txt:2: a line of 1,000 bytes"):
        encodings.encoding_of(write(tmp_path, b"first\ncaf\xe9" + b"x" * 1000))


@pytest.mark.parametrize(
    "content",
    [gzip.compress(WESTERN.encode() * 100)[:-20], b"no gzip", gzip.compress(b"abc")[:10] + b"\xff" * 40],
    ids=["cut short", "no gzip", "damaged"],
)
def test_a_broken_gzip_file_is_named(tmp_path, content):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.txt\.gz: not a whole gzip file"):
        encodings.encoding_of(path)
