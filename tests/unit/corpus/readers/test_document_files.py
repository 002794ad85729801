"""html, pdf, docx and epub: their paragraphs, none of what surrounds them, and what can't be read."""

from __future__ import annotations

import gzip

import pytest

from minigpts.corpus.readers import document_files, text_files
from minigpts.errors import UserError
from tests.unit.corpus.readers import documents

PARAGRAPH = "Iron deficiency is the commonest cause of <b>anemia</b>, and it is seen\n in every café of the world."
PLAIN = "Iron deficiency is the commonest cause of anemia, and it is seen in every café of the world."
MAIN = (
    f"<h1>Iron</h1><nav><a href='/'>Home</a></nav><p>{PARAGRAPH}</p><ul><li>Fatigue</li><li>Pallor</li></ul><p>It is treated.</p>"
)
TEXT = f"Iron\n\n{PLAIN}\n\n  • Fatigue\n  • Pallor\n\nIt is treated."
PAGE = (
    "<html><head>{head}<title>A site</title><script>let x = 1;</script><style>p {{color: red}}</style></head><body>"
    "<header><nav><ul><li><a href='/a'>About</a></li></ul></nav></header><div>Cookies?</div>{main}"
    "<aside>Related</aside><footer>© A site</footer></body></html>"
)


def read(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return document_files.text(path)


@pytest.mark.parametrize(
    "main", [f"<main>{MAIN}</main>", f"<div role='main'>{MAIN}</div>", f"<div><article>{MAIN}</article></div>"]
)
def test_of_a_page_its_main_part_is_read_whole(tmp_path, main):
    assert read(tmp_path, "a.html", PAGE.format(head="", main=main)) == TEXT
    assert read(tmp_path, "a.htm.gz", gzip.compress(PAGE.format(head="", main=main).encode())) == TEXT


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252", "cp1251", "gb18030"])
def test_a_page_is_read_in_the_encoding_it_names(tmp_path, encoding):
    words = {"cp1251": "Анемия.", "gb18030": "贫血很常见。"}.get(encoding, "Café.")
    page = PAGE.format(head=f'<meta charset="{encoding}">', main=f"<main><p>{words}</p></main>")
    assert read(tmp_path, "a.html", page.encode(encoding)) == words


def test_a_page_that_marks_no_main_part_loses_its_navigation_all_the_same(tmp_path):
    links = "".join(f"<li><a href='/{n}'>Topic {n}</a></li>" for n in range(9))
    found = read(tmp_path, "a.html", f"<body><div class='nav'><ul>{links}</ul></div><div><p>{PARAGRAPH}</p>" * 3 + "</div></body>")
    assert found.count(PLAIN) == 3 and "Topic" not in found


def test_the_chapters_of_a_book_are_read_in_their_order(tmp_path):
    chapter = '<html xmlns="http://www.w3.org/1999/xhtml"><head><title/></head><body><a id="x"/>{}</body></html>'
    chapters = {
        "z%20one.xhtml": chapter.format('<h1>One</h1><p>A heart<br/>beats.<span role="doc-pagebreak">12</span> Twice&#160;so.</p>'),
        "a.xhtml": chapter.format("<p>The lungs &mdash; both &mdash; fill.</p><p>They empty.</p>").encode("utf-16"),
        "cover.xhtml": chapter.format('<img src="cover.png" alt="Cover"/>'),
    }
    nav = chapter.format("<nav><ol><li>One</li></ol></nav>")
    text = "One\n\nA heart\nbeats. Twice\xa0so.\n\nThe lungs — both — fill.\n\nThey empty."
    assert read(tmp_path, "a.epub", documents.epub(chapters, nav)) == text
    listed = '<encryption><EncryptedData xmlns="e"><CipherReference URI="OEBPS/{}"/></EncryptedData></encryption>'
    fonts = documents.epub(chapters, nav, {"META-INF/encryption.xml": listed.format("font.otf")})
    assert read(tmp_path, "fonts.epub", fonts) == text
    with pytest.raises(UserError, match=r"b\.epub: can't be read \(ValueError: its chapters are encrypted\)"):
        read(tmp_path, "b.epub", documents.epub(chapters, nav, {"META-INF/encryption.xml": listed.format("z%20one.xhtml")}))


def word(text, style=""):
    return f"<w:p>{style and f'<w:pPr><w:pStyle w:val={style!r}/></w:pPr>'}<w:r><w:t>{text}</w:t></w:r></w:p>"


def test_a_text_of_word_keeps_paragraphs_tables_and_notes_and_loses_heads_and_contents(tmp_path):
    row = "<w:tr>" + "".join(f"<w:tc>{word(text)}</w:tc>" for text in ("Ferritin", "low")) + "</w:tr>"
    note = "<w:p><w:r><w:t>The heart beats</w:t></w:r><w:r><w:footnoteReference w:id='2'/></w:r><w:r><w:t>.</w:t></w:r></w:p>"
    body = word("Iron ... 3", "TOC1") + word("Iron", "Heading1") + note + f"<w:tbl>{row}</w:tbl>" + word("The end.")
    styles = "".join(
        f"<w:style w:type='paragraph' w:styleId='{name}'><w:name w:val='{title}'/></w:style>"
        for name, title in (("TOC1", "toc 1"), ("Heading1", "heading 1"))
    )
    more = {
        "styles": styles,
        "header": word("A running head"),
        "footnotes": f"<w:footnote w:id='2'>{word('Twice.')}</w:footnote>",
    }
    paragraphs = read(tmp_path, "a.docx", documents.docx(body, more)).split("\n\n")
    assert [" ".join(paragraph.split()) for paragraph in paragraphs] == [
        "Iron",
        "The heart beats.",
        "Ferritin low",
        "The end.",
        "1. Twice.",
    ]


def corpus(folder):
    return text_files.read_corpus(folder, text_files.Columns("text")).documents


def write_mixed(folder):
    (folder / "a.html").write_text(f"<main><p>{PARAGRAPH}</p></main>")
    (folder / "b.pdf").write_bytes(documents.pdf([[(50, 500, "The lungs fill.")]]))
    (folder / "c.docx").write_bytes(documents.docx(word("The nails grow.")))
    (folder / "d.epub").write_bytes(documents.epub({"one.xhtml": "<p>The teeth ache.</p>"}))
    (folder / "e.txt").write_text("The eyes see.")
    return [PLAIN, "The lungs fill.", "The nails grow.", "The teeth ache.", "The eyes see."]


def test_a_folder_mixes_documents_and_text_and_what_cannot_be_read_is_named_and_counted(tmp_path, capsys):
    texts = write_mixed(tmp_path)
    broken = {
        "broken.docx": b"PK\3\4",
        "broken.epub": b"no zip file",
        "broken.html.gz": b"no gzip file",
        "broken.pdf": b"%PDF-1.4\n",
        "encrypted.pdf": documents.pdf([[(50, 500, "Secret.")]], encrypted=True),
        "scan.pdf": documents.pdf([[], []]),
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    found = corpus(tmp_path)
    assert [document.text for document in found] == texts
    assert found.dropped["documents that can't be read"] == len(broken)
    named = [line.partition(": ")[0] for line in capsys.readouterr().err.splitlines() if line.endswith("; left out")]
    assert named == [f"{tmp_path}/{name}" for name in broken]


def test_where_no_document_can_be_read_the_source_is_refused(tmp_path):
    (tmp_path / "a.pdf").write_bytes(documents.pdf([[]]))
    with pytest.raises(UserError, match=r"holds no text; .*documents that can't be read: 1"):
        list(corpus(tmp_path))


@pytest.mark.parametrize("kind", document_files.KINDS)
def test_a_library_that_is_not_installed_is_named_before_anything_is_read(tmp_path, monkeypatch, kind):
    write_mixed(tmp_path)
    (tmp_path / f"x{kind}").write_bytes(b"")
    monkeypatch.setattr(document_files, "find_spec", lambda library: None)
    with pytest.raises(UserError, match=r"^\S+/a\.html: \.html needs resiliparse; pip install -e '\.\[documents\]'$"):
        corpus(tmp_path)
    with pytest.raises(UserError, match=rf"x{kind}: {kind} needs \w+; pip install"):
        corpus(tmp_path / f"x{kind}")
