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
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")


def require_libraries(files: Iterable[Path]) -> None:
    """Raise a UserError naming the first file that needs a library which isn't installed."""
    for file in files:
        _, library = _READERS.get(folders.suffix(file), (None, None))
        if library is not None and find_spec(library) is None:
            raise UserError(f"{file}: {folders.suffix(file)} needs {library}; pip install -e '.[documents]'")


def text(path: Path) -> str:
    """The document's text, with a blank line between paragraphs.

    Raises UserError naming the file for one that is broken, encrypted, or holds pictures of text.
    """
    read, _ = _READERS[folders.suffix(path)]
    with blaming(path, "can't be read"):
        with encodings.opened(path) as file:
            content = file.read()
        return _BLANK_LINES.sub("\n\n", read(content)).strip()


def _html(content: bytes) -> str:
    """A web page's main part: what it marks as that, else what Resiliparse takes for it."""
    from resiliparse.parse.html import HTMLTree

    page = _decoded(content)
    tree = HTMLTree.parse(page)
    for selector in ("main, [role=main]", "article"):
        found = tree.document.query_selector_all(selector) if tree.document else []
        if len(found) == 1:
            return _plain(found[0].html, _FURNITURE)
    return _plain(page, [], main_content=True) or _plain(page, _FURNITURE)


def _docx(content: bytes) -> str:
    import mammoth

    without_contents, without_pictures = "p[style-name^='toc'] => !", mammoth.images.img_element(lambda image: {})
    page = mammoth.convert_to_html(io.BytesIO(content), style_map=without_contents, convert_image=without_pictures).value
    return _plain(_IN_CELL.sub(r"\1\2", page), _NOTE_MARKS)


def _epub(content: bytes) -> str:
    """The chapters in the order of the book's spine. Raises ValueError where they are encrypted."""
    with zipfile.ZipFile(io.BytesIO(content)) as book:
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
        if "META-INF/encryption.xml" in book.namelist():  # which may list fonts alone
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
