"""Text of strangers: bombs, links out of the folder, markup without end, escapes. Each is refused, or left out and counted."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tracemalloc
import zipfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from minigpts.corpus.readers import document_files, encodings, notes, pdf, term_lists, text_files
from minigpts.corpus.readers.question_files import read_questions
from minigpts.errors import UserError
from minigpts.untrusted import SMALL
from tests.unit.corpus.readers import documents
from tests.unit.corpus.readers.test_chat_rows import read as read_chats

SPACES = b" " * (SMALL + (1 << 21))  # 64 kB as gzip


def corpus(path, column="text"):
    return text_files.read_corpus(path, text_files.Columns(column)).documents


@contextmanager
def at_most(num_bytes):
    """Memory that Python's objects take."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < num_bytes
    finally:
        tracemalloc.stop()


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.jsonl", "a.json", "a.csv", "a.tsv", "questions.csv", "terms.txt"])
def test_a_gzip_file_that_unpacks_to_far_more_than_text_does_is_one_line(tmp_path, name):
    start = b"[" if name == "a.json" else b"text\t\n" if name == "a.tsv" else b"text\n"
    path = write(tmp_path / f"{name}.gz", gzip.compress(start + SPACES, 1))
    readers = {"questions.csv": lambda path: read_questions(path, Counter()), "terms.txt": term_lists.read_terms}
    with at_most(20 << 20), pytest.raises(UserError, match=rf"^{path}: unpacks to more than 200 times its size, as no text does$"):
        list(readers.get(name, corpus)(path))


def test_text_that_packs_well_is_read(tmp_path):
    rows = "".join(json.dumps({"text": f"Patient {n} has a heart of {n % 97} beats."}) + "\n" for n in range(300))
    assert len(list(corpus(write(tmp_path / "a.jsonl.gz", gzip.compress(rows.encode()))))) == 300
    assert encodings.encoding_of(write(tmp_path / "b.txt.gz", gzip.compress(SPACES[: 1 << 20]))) == "utf-8"


def test_a_parquet_file_whose_text_unpacks_to_far_more_is_one_line(tmp_path):
    table = pyarrow.table({"text": ["a heart", " " * (SMALL + 1)], "other": ["x", "y"]})
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, path, compression="zstd", use_dictionary=False, write_statistics=False)
    with pytest.raises(UserError, match=rf"^{path}: unpacks to more than 200 times its size"):
        list(corpus(path))
    assert [document.text for document in corpus(path, "other")] == ["x", "y"]


def archive(members, said=None):
    """A zip file; ``said``: the size that it says each member has."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name, member in members.items():
            file.writestr(name, member)
            if said is not None:
                file.getinfo(name).file_size = said
    return content.getvalue()


def members(content):
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {name: file.read(name) for name in file.namelist()}


BOMB = b"<p>" + b" " * (1 << 28)
BOOK, WORD = members(documents.epub({"a.xhtml": "<p>One.</p>"})), members(documents.docx("<w:p/>"))
REPEATED = BOOK["OEBPS/book.opf"].replace(b"</spine>", b'<itemref idref="c0"/>' * 300 + b"</spine>")
TOO_LARGE = r"ValueError: more than 16 MiB"
BOMBS = {
    "a.html.gz": (gzip.compress(BOMB, 1), TOO_LARGE),
    "a.epub": (archive(BOOK | {"OEBPS/a.xhtml": BOMB}), TOO_LARGE),
    "package.epub": (archive(BOOK | {"OEBPS/book.opf": BOMB}), TOO_LARGE),
    "lies.epub": (archive(BOOK | {"OEBPS/a.xhtml": BOMB}, said=1000), "BadZipFile|ParseError|ValueError"),
    "repeated.epub": (archive(BOOK | {"OEBPS/book.opf": REPEATED, "OEBPS/a.xhtml": BOMB[: 1 << 20]}), TOO_LARGE),
    "a.docx": (archive(WORD | {"word/document.xml": BOMB}), TOO_LARGE),
    "styles.docx": (archive(WORD | {"word/styles.xml": BOMB}), TOO_LARGE),
    "lies.docx": (archive(WORD | {"word/document.xml": BOMB}, said=1000), "BadZipFile|ExpatError"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_document_that_unpacks_to_gigabytes_is_left_out_in_little_memory(tmp_path, name):
    content, reason = BOMBS[name]
    write(tmp_path / name, content)
    write(tmp_path / "z.txt", "The heart beats.")
    found = corpus(tmp_path)
    with at_most(4 * document_files.LARGEST_MARKUP):
        assert [document.text for document in found] == ["The heart beats."]
    assert found.dropped["documents that can't be read"] == 1
    with pytest.raises(UserError, match=rf"^{tmp_path / name}: can't be read \(({reason})"):
        document_files.text(tmp_path / name)


def test_a_file_too_large_to_hold_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(document_files, "LARGEST_FILE", 1 << 20)
    path = write(tmp_path / "a.pdf.gz", gzip.compress(bytes(1 << 21)))
    with pytest.raises(UserError, match=r"a\.pdf\.gz: can't be read \(ValueError: more than 1 MiB\)"):
        document_files.text(path)


ENTITIES = '<!DOCTYPE x [<!ENTITY a0 "heart">' + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
XML = {"epub": (BOOK, "OEBPS/book.opf", "</manifest>"), "docx": (WORD, "word/document.xml", "</w:body>")}


@pytest.mark.parametrize("kind", XML)
@pytest.mark.parametrize("entity", ["a9", "file"])
def test_entities_neither_explode_nor_read_files(tmp_path, kind, entity):
    secret = write(tmp_path / "secret", "TOP SECRET")
    book, name, end = XML[kind]
    said = f"<w:p><w:r><w:t>&{entity};</w:t></w:r></w:p>" if kind == "docx" else f"&{entity};"
    xml = f'{ENTITIES}<!ENTITY file SYSTEM "file://{secret}">]>' + book[name].decode().replace(end, said + end)
    path = write(tmp_path / f"a.{kind}", archive(book | {name: xml}))
    try:
        assert document_files.text(path) == ""
    except UserError as error:
        assert str(error).startswith(f"{path}: can't be read (") and "SECRET" not in str(error)


@pytest.mark.parametrize("tag", ["<div>", "<b>", "<table><tr><td>", "<ul><li>"])
@pytest.mark.parametrize("around", ["", "<main>"])
def test_a_hundred_thousand_nested_tags_are_read(tmp_path, tag, around):
    """In a process of its own, since a library that overflows its stack would end this one."""
    path = write(tmp_path / "a.html", f"<body>{around}{tag * 100_000}heart")
    command = (
        f"from pathlib import Path; from minigpts.corpus.readers import document_files as d; print(d.text(Path({str(path)!r})))"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip().removeprefix("•").strip()) == (0, "heart"), done.stderr


def test_nested_parts_of_a_text_of_word_are_one_line(tmp_path):
    deep = "<w:sdt><w:sdtContent>" * 20_000 + "<w:p/>" + "</w:sdtContent></w:sdt>" * 20_000
    with pytest.raises(UserError, match=r"a\.docx: can't be read \(RecursionError"):
        document_files.text(write(tmp_path / "a.docx", documents.docx(deep)))


def test_a_page_of_a_pdf_may_have_lines_of_any_kind_and_not_endlessly_many(monkeypatch):
    numbers = " ".join(map(str, range(20_000)))
    lines = [pdf.Line(numbers, 0, 100, 10, 10), pdf.Line("1 of 2", 0, 100, 0, 10)]
    with at_most(1 << 22):
        assert pdf.without_edges([lines, lines[:1]]) == [lines, lines[:1]]
    monkeypatch.setattr(pdf, "MOST_LINES", 10)
    page = [(50, 500 - 12 * number, "A line.") for number in range(11)]
    assert pdf.text(documents.pdf([page[:10]]))
    with pytest.raises(ValueError, match="a page of more than 10 lines"):
        pdf.text(documents.pdf([page]))


def test_links_out_of_the_folder_are_left_out_counted_and_named(tmp_path, capsys):
    folder = tmp_path / "folder"
    for name in ("folder/a.txt", "folder/b/b.txt", "keys/id.txt", f"blobs/{'0f' * 20}"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name, f"The text of {Path(name).name}.")
    for name, target in (("key.txt", "keys/id.txt"), ("keys", "keys"), ("cached.txt", f"blobs/{'0f' * 20}")):
        (folder / name).symlink_to(tmp_path / target)
    (folder / "c.txt").symlink_to("a.txt")
    found = corpus(folder)
    said = ["a.txt", "b.txt", "a.txt", "0f" * 20]
    assert [document.text for document in found] == [f"The text of {name}." for name in said]
    assert found.dropped == {"links out of the folder": 2}
    assert "key.txt, keys (link out of the folder)" in capsys.readouterr().err
    assert [document.text for document in corpus(folder / "key.txt")] == ["The text of id.txt."]  # which is named, is meant


def test_what_a_note_quotes_does_not_reach_the_terminal_as_an_escape(tmp_path, capsys):
    write(tmp_path / "a.txt", "The heart beats.")
    write(tmp_path / "\x1b[2J\x9bb.png", "PNG")
    list(corpus(tmp_path))
    notes.note("\x1b]0;owned\x07 a\nb")
    said = capsys.readouterr().err
    assert "\\x1b[2J\\x9bb.png (other kind)" in said and "\\x1b]0;owned\\x07 a\\nb\n" in said
    assert not {"\x1b", "\x07", "\x9b"} & set(said)


@pytest.mark.parametrize("depth", [900, 100_000])
def test_a_chat_nested_without_end_is_one_line(tmp_path, depth):
    deep = '{"a":' * depth + "1" + "}" * depth
    call = f'{{"name": "f", "arguments": {json.dumps(deep)}}}'
    for message in (f'{{"role": "assistant", "content": "a", "tool_calls": [{call}]}}', f'{{"role": "user", "name": {deep}}}'):
        path = write(tmp_path / "a.jsonl", f'{{"messages": [{{"role": "user", "content": "a"}}, {message}]}}\n')
        with pytest.raises(UserError, match=rf"^{path}(:1)?: ([^\n]*nested too deeply|not JSON|holds no text)") as caught:
            read_chats(path, tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cell", ["[" * 50_000, "[" + "-" * 50_000 + "1]", "[" + "-" * 4000 + "1]", "[1" + "+1j" * 30_000 + "]"])
def test_choices_in_a_cell_that_no_parser_can_hold_are_one_line(tmp_path, cell):
    path = write(tmp_path / "q.csv", f'question,choices,answer\nWhich beats?,"{cell}",A\n')
    with pytest.raises(UserError, match=rf"^{path}:2: ") as caught:
        read_questions(path, Counter())
    assert "\n" not in str(caught.value)
