"""Reads documents as people have them, html, pdf, docx and epub, all also as .gz: their text, paragraph by paragraph.

What a reader would skip is dropped: navigation, page numbers, running heads, tables of contents that the format marks as such.
The libraries are an extra, ``pip install -e '.[documents]'``: Resiliparse for web pages and what becomes one, mammoth for docx,
pdfium for pdf. An epub is a zip file of web pages in an order, which the standard library reads.
"""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO
from urllib.parse import unquote
from xml.etree import ElementTree

from minigpts.corpus.readers import encodings, folders, pdf
from minigpts.errors import UserError, blaming

# CSS selectors. Within what a page itself calls its main part, this is none of it.
_FURNITURE = ["nav", "aside", "footer", "form", "button", "[role=navigation]", "[role=search]", "[aria-hidden=true]"]
_NOTE_MARKS = ["a[href^='#footnote-']", "a[href^='#endnote-']"]  # mammoth's "[1]" in the text and "↑" behind the note
_BOOK_MARKS = ["nav", "[role=doc-pagebreak]", "[epub\\:type~=pagebreak]"]

# XHTML may close an element in its own tag; html would take what follows for its content: <title/> hides a whole chapter.
_CLOSED_AT_ONCE = re.compile(r"<(?!br\b)([A-Za-z][\w:-]*)(\s[^<>]*)?/>")
# A cell's only paragraph; as one it would break its row into lines.
_IN_CELL = re.compile(r"(<t[dh]\b[^>]*>)<p>((?:(?!</?p>).)*)</p>(?=</t[dh]>)")
# Bytes. The libraries take up to a hundred times as much memory as markup has; a book of a thousand pages has a tenth of this.
LARGEST_MARKUP = 1 << 24
LARGEST_FILE = 1 << 29  # with its pictures
_BLOCK = 1 << 16  # unpacked at a time
# A CSS selector of elements this deep in a page; to find the main part of such a page Resiliparse takes hours.
_DEEP = " > ".join(["*"] * 500)
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")


def require_libraries(files: Iterable[Path]) -> None:
    """Raise a UserError naming the first file that needs a library which isn't installed."""
    for file in files:
        _, library = _READERS.get(folders.suffix(file), (None, None))
        if library is not None and find_spec(library) is None:
            raise UserError(f"{file}: {folders.suffix(file)} needs {library}; pip install -e '.[documents]'")


def text(path: Path) -> str:
    """The document's text, with a blank line between paragraphs.

    Raises UserError naming the file for one that is broken, encrypted, too large when unpacked, or holds pictures of text.
    """
    read, _ = _READERS[folders.suffix(path)]
    largest = LARGEST_MARKUP if read is _html else LARGEST_FILE
    with blaming(path, "can't be read"):
        with encodings.opened(path) as file:
            content = _content(file, largest)
        return _BLANK_LINES.sub("\n\n", read(content)).strip()


def _html(content: bytes) -> str:
    """A web page's main part: what it marks as that, else what Resiliparse takes for it."""
    from resiliparse.parse.html import HTMLTree

    page = _decoded(content)
    tree = HTMLTree.parse(page)
    deep = tree.document is not None and tree.document.query_selector(_DEEP) is not None
    for selector in ("main, [role=main]", "article"):
        found = tree.document.query_selector_all(selector) if tree.document else []
        if len(found) == 1:
            return _plain(found[0].html, _FURNITURE)
    return (not deep and _plain(page, [], main_content=True)) or _plain(page, _FURNITURE)


def _docx(content: bytes) -> str:
    import mammoth

    without_contents, without_pictures = "p[style-name^='toc'] => !", mammoth.images.img_element(lambda image: {})
    page = mammoth.convert_to_html(_texts_of(content), style_map=without_contents, convert_image=without_pictures).value
    return _plain(_IN_CELL.sub(r"\1\2", page), _NOTE_MARKS)


def _texts_of(content: bytes) -> io.BytesIO:
    """A docx file's members that hold text and its relations, as a zip file of their own; none of them is packed.

    Raises as :class:`_Archive`.
    """
    texts = io.BytesIO()
    with _Archive(content) as file, zipfile.ZipFile(texts, "w") as stored:
        for name in sorted({name for name in file.names if name.endswith((".xml", ".rels"))}):
            stored.writestr(name, file.read(name))
    return texts


class _Archive:
    """A zip file in memory, of which no more than ``LARGEST_MARKUP`` bytes are unpacked, whatever it says of its sizes."""

    def __init__(self, content: bytes) -> None:
        self._file, self._unpacked = zipfile.ZipFile(io.BytesIO(content)), 0
        self.names = self._file.namelist()

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, name: str) -> bytes:
        """A member's content. Raises ValueError where it would be too much, counting what was read before."""
        with self._file.open(name) as member:
            content = _content(member, LARGEST_MARKUP, self._unpacked)
        self._unpacked += len(content)
        return content


def _content(file: IO[bytes], largest: int, before: int = 0) -> bytes:
    """What is left of a file, block by block: at once, zipfile would unpack all that is packed, whatever the size it tells.

    Raises ValueError where that and the ``before`` bytes read earlier are more than ``largest``.
    """
    content = bytearray()
    while block := file.read(_BLOCK):
        content += block
        if before + len(content) > largest:
            raise ValueError(f"more than {largest >> 20:,} MiB")
    return bytes(content)


def _epub(content: bytes) -> str:
    """The chapters in the order of the book's spine. Raises ValueError where they are encrypted."""
    with _Archive(content) as book:
        (root,) = ElementTree.fromstring(book.read("META-INF/container.xml")).findall("{*}rootfiles/{*}rootfile[1]")
        package = ElementTree.fromstring(book.read(root.attrib["full-path"]))
        folder = posixpath.dirname(root.attrib["full-path"])
        items = {item.attrib["id"]: item.attrib for item in package.iterfind("{*}manifest/{*}item")}
        spine = [items[place.attrib["idref"]] for place in package.iterfind("{*}spine/{*}itemref")]
        chapters = [
            posixpath.normpath(posixpath.join(folder, unquote(item["href"])))
            for item in spine
            if "nav" not in item.get("properties", "").split()
        ]
        if "META-INF/encryption.xml" in book.names:  # which may list fonts alone
            encryption = ElementTree.fromstring(book.read("META-INF/encryption.xml"))
            hidden = {unquote(reference.attrib["URI"]) for reference in encryption.iterfind(".//{*}CipherReference")}
            if hidden & {*chapters}:
                raise ValueError("its chapters are encrypted")
        pages = (_CLOSED_AT_ONCE.sub(r"<\1\2></\1>", _decoded(book.read(chapter))) for chapter in chapters)
        return "\n\n".join(_plain(page, _BOOK_MARKS) for page in pages)


def _plain(page: str, skipped: Sequence[str], main_content: bool = False) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    return extract_plain_text(page, main_content=main_content, alt_texts=False, skip_elements=[*skipped])


def _decoded(content: bytes) -> str:
    """A page's text: UTF-8 where it is, else in the encoding it names, else in the likeliest."""
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return bytes_to_str(content, detect_encoding(content, from_html_meta=True) or "cp1252")


_READERS: dict[str, tuple[Callable[[bytes], str], str]] = {
    ".docx": (_docx, "mammoth"),
    ".epub": (_epub, "resiliparse"),
    ".htm": (_html, "resiliparse"),
    ".html": (_html, "resiliparse"),
    ".pdf": (pdf.text, "pypdfium2"),
}
KINDS = (*_READERS,)
