"""Local text and question files: what is read, and what the complaints say."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pandas
import pyarrow
import pyarrow.parquet
import pytest

from minigpts import artifacts
from minigpts.corpus.passages import LONGEST
from minigpts.corpus.readers import text_files
from minigpts.errors import UserError

TEXTS = ["The heart\nbeats.", 'Über, "lungs"', "A nail; a tooth."]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def jsonl(texts: list[str] = TEXTS) -> str:
    return "".join(json.dumps({"n": i, "text": item}, ensure_ascii=False) + "\n" for i, item in enumerate(texts))


def array() -> str:
    return json.dumps([{"n": i, "text": item} for i, item in enumerate(TEXTS)], ensure_ascii=False, indent=2) + "\n"


def csv() -> str:
    return "n,text\n" + "".join('{},"{}"\n'.format(i, item.replace('"', '""')) for i, item in enumerate(TEXTS))


def corpus(path: Path, column: str = "text", template: str | None = None, group: str | None = None) -> text_files.Texts:
    documents = text_files.read_corpus(path, text_files.Columns(column, template, group)).documents
    assert isinstance(documents, text_files.Texts)
    return documents


def read(path: Path, *columns: str | None) -> list[str]:
    return [document.text for document in corpus(path, *columns)]


def prose(name: str, passages: int) -> str:
    return "\n\n".join(f"{name} {passage}. {'word ' * (LONGEST // 6)}" for passage in range(passages))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", jsonl()),
        ("a.jsonl.gz", jsonl()),
        ("a.json", array()),
        ("a.json.gz", array()),
        ("utf16.json", array().encode("utf-16")),
        ("mac.json", array().replace("\n", "\r")),
        ("marked.jsonl", "\ufeff" + jsonl()),
        ("utf16.jsonl", jsonl().encode("utf-16")),
        ("western.jsonl", jsonl().encode("cp1252")),
        ("mac.jsonl", jsonl().replace("\n", "\r")),
        ("gaps.jsonl", jsonl([TEXTS[0], "", "  "]) + "\n" + jsonl(TEXTS[1:])),
        ("a.csv", csv()),
        ("a.csv.gz", csv()),
        ("windows.csv", csv().replace("\n", "\r\n")),
        ("a.TSV", csv().replace("n,text", "n\ttext").replace(',"', '\t"', 1).replace('\n1,"', '\n1\t"').replace('\n2,"', '\n2\t"')),
    ],
)
def test_every_format_gives_the_same_documents(tmp_path, name, content):
    assert read(write(tmp_path, name, content)) == TEXTS


def test_parquet_and_a_folder_of_files_in_the_order_of_their_names(tmp_path):
    artifacts.write_table(tmp_path / "b" / "b.parquet", {"text": [TEXTS[1], None], "n": [1, 2]})
    write(tmp_path, "a.jsonl", jsonl(TEXTS[:1]))
    write(tmp_path, "c.txt", TEXTS[2])
    write(tmp_path, "d.md.gz", "# A title\r\n\r\nA text.\r\n")
    write(tmp_path, "e.txt", " \n")
    documents = corpus(tmp_path)
    assert [[document.text for document in documents] for _ in range(2)] == [[*TEXTS, "# A title\n\nA text."]] * 2
    assert documents.dropped == {"empty rows": 1, "files without text": 1}


def test_many_batches_of_parquet_and_only_the_columns_asked_for(tmp_path):
    table = {"text": [f"text {n}" for n in range(1000)], "n": list(range(1000)), "a.b": ["x"] * 1000}
    artifacts.write_table(tmp_path / "a.parquet", table)
    assert read(tmp_path / "a.parquet") == table["text"]
    assert read(tmp_path / "a.parquet", "text", "{n} {a.b}") == [f"{n} x" for n in range(1000)]


def test_copies_share_a_group_and_nothing_else_does(tmp_path):
    documents = list(corpus(write(tmp_path, "a.jsonl", jsonl([*TEXTS, "über (lungs)"]))))
    assert documents[3].group == documents[1].group
    assert len({document.group for document in documents}) == 3


def test_a_template_joins_columns_and_a_row_without_one_of_them_is_counted(tmp_path):
    rows = [{"en": "A heart.", "zh": "心。", "n": 1}, {"en": "", "zh": "肺。", "n": 2}, {"en": "A nail.", "zh": None, "n": 3}]
    path = write(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    documents = corpus(path, "text", "{{{n}}} English: {en}\nTaiwanese Mandarin: {zh}")
    assert [document.text for document in documents] == ["{1} English: A heart.\nTaiwanese Mandarin: 心。"]
    assert documents.dropped == {"empty rows": 2}


@pytest.mark.parametrize("template", ["no column", "", "{en", "en}", "{}", "{en:>10}", "{en!r}"])
def test_a_template_that_cannot_be_filled_is_one_line(template):
    with pytest.raises(UserError, match=r"^params\.yaml: dataset\.template[^\n]*$"):
        text_files.Columns("text", template)


def test_rows_of_one_group_column_stay_together_and_rows_without_have_their_own(tmp_path):
    rows = [{"text": f"Text {n}.", "doc": doc} for n, doc in enumerate(["a", "b", "a", None, "", 7])]
    groups = [
        document.group for document in corpus(write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows))), "text", None, "doc")
    ]
    assert groups[0] == groups[2] and len(set(groups)) == 5 and groups[5] == "7"


MISSING = [None, float("nan"), "", " ", "nan", "NaN", "NaT", "<NA>", "#N/A", "\\N"]


def tables_with(values: list[object], folder: Path) -> dict[str, Path]:
    """Files of each format whose columns hold ``values``, written by pandas, the json module and pyarrow."""
    rows = [{"text": f"Text {n} of heart.", "zh": value, "doc": value} for n, value in enumerate(values)]
    frame = pandas.DataFrame(rows, dtype=object)
    for name, separator in (("a.csv", ","), ("a.tsv", "\t")):
        frame.map(str).to_csv(folder / name, sep=separator, index=False, quoting=3)
    frame.to_csv(folder / "b.csv", index=False)
    write(folder, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    texts = [str(value) if isinstance(value, float) else value for value in values]
    artifacts.write_table(folder / "a.parquet", {"text": frame["text"].tolist(), "zh": texts, "doc": texts})
    return {path.name: path for path in sorted(folder.iterdir())}


def test_what_is_missing_is_neither_text_nor_a_group_in_any_format(tmp_path):
    for name, path in tables_with([*MISSING, "None", "NA"], tmp_path).items():
        kept = {len(MISSING): "None", len(MISSING) + 1: "NA"} | ({0: "None"} if name in ("a.csv", "a.tsv") else {})  # str(None)
        words, count = [kept[place] for place in sorted(kept)], len(MISSING) + 2 - len(kept)
        filled = corpus(path, "text", "{text} {zh}")
        assert [document.text.rpartition(" ")[2] for document in filled] == words, name
        assert filled.dropped["empty rows"] == count, name
        own = [document.group for document in corpus(path)]
        grouped = corpus(path, "text", None, "doc")
        assert [document.group for document in grouped] == [kept.get(place, group) for place, group in enumerate(own)], name
        assert len(set(own)) == len(own) and grouped.dropped == {"missing groups": count}, name
        assert read(path, "zh") == words, name


def test_nulls_of_parquet_are_missing_whatever_their_type(tmp_path):
    columns = {
        "float": pandas.array([1.5, None], dtype="Float64"),
        "numpy": [1.5, float("nan")],
        "int": pandas.array([7, None], dtype="Int64"),
        "string": pandas.array(["x", None], dtype="string"),
        "date": [pandas.Timestamp("2020-01-02"), pandas.NaT],
        "category": pandas.Categorical(["x", None]),
    }
    frame = pandas.DataFrame({"text": ["One text.", "Another text."], **columns})
    frame.to_parquet(tmp_path / "a.parquet")
    for name in columns:
        documents = corpus(tmp_path / "a.parquet", "text", None, name)
        one, other = (document.group for document in documents)
        assert (one, other) == (str(frame[name][0]), list(corpus(tmp_path / "a.parquet"))[1].group), name
        assert documents.dropped == {"missing groups": 1}, name
    for name in ("float", "numpy", "int", "string", "category"):
        documents = corpus(tmp_path / "a.parquet", "text", f"{{text}} {{{name}}}")
        assert len(list(documents)) == 1 and documents.dropped == {"empty rows": 1}, name


def test_a_data_sets_card_and_licence_are_no_text_and_are_named(tmp_path, capsys):
    write(tmp_path, "a.jsonl", jsonl())
    write(tmp_path, "notes.txt", "Some notes.")
    for name in ("README.md", "readme_zh.md", "LICENSE.txt", "CITATION.md", "LICENSE", "scan.png"):
        write(tmp_path, name, "About the data.")
    documents = corpus(tmp_path)
    assert [document.text for document in documents] == [*TEXTS, "Some notes."]
    assert documents.dropped == {"cards and licences": 4, "files of other kinds": 2}
    cards = "CITATION.md, LICENSE.txt, README.md, readme_zh.md (card or licence; rename it if it is text)"
    expected = f"{tmp_path}: reads 1 .jsonl, 1 .txt; not read: {cards}, LICENSE, scan.png (other kind)\n"
    assert capsys.readouterr().err == expected
    read(tmp_path)
    assert capsys.readouterr().err == ""  # once
    (tmp_path / "pages").mkdir()
    for name in ("README.md", "license.md", "Notice.txt"):  # a page may have such a title
        write(tmp_path / "pages", name, f"A page of {name}.")
    assert read(tmp_path / "pages") == ["A page of Notice.txt.", "A page of license.md."]
    assert read(write(tmp_path, "README.md", "Read on demand.")) == ["Read on demand."]


def test_the_sha256_of_what_was_read_is_kept(tmp_path):
    path = write(tmp_path, "a.jsonl", jsonl())
    columns = text_files.Columns("text")
    one = text_files.read_corpus(path, columns).sources["local"]["sha256"]
    assert one == hashlib.sha256(path.read_bytes()).hexdigest()
    write(tmp_path, "b.jsonl", jsonl(TEXTS[:1]))
    both = text_files.read_corpus(tmp_path, columns).sources["local"]["sha256"]
    write(tmp_path, "b.jsonl", jsonl(TEXTS[1:]))
    assert len({one, both, text_files.read_corpus(tmp_path, columns).sources["local"]["sha256"]}) == 3


def test_two_columns_of_one_name_are_refused_in_parquet_too(tmp_path):
    table = pyarrow.table([["a"], ["b"]], names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: two columns are named 'text'; rename one of them"):
        read(tmp_path / "a.parquet")


def test_pieces_of_a_long_row_share_a_group_and_so_do_its_copies(tmp_path):
    path = write(tmp_path, "a.jsonl", jsonl([prose("One", 6), prose("two", 6), prose("ONE", 6), TEXTS[0]]))
    documents = list(corpus(path))
    assert len(documents) > 10 and all(len(document.text) <= LONGEST for document in documents)
    assert len({document.group for document in documents}) == 3
    assert {document.group for document in documents if document.text.startswith("One")} == {
        document.group for document in documents if document.text.startswith("ONE")
    }


def test_few_files_of_prose_can_be_split_and_many_keep_their_passages_together(tmp_path):
    for number in range(text_files.FEW_FILES - 1):
        write(tmp_path, f"{number:02}.txt", prose(f"file {number}", 4))
    few = list(corpus(tmp_path))
    assert len({document.group for document in few}) == len(few) > 2 * text_files.FEW_FILES
    write(tmp_path, "last.md", prose("last", 4))
    many = list(corpus(tmp_path))
    assert len({document.group for document in many}) == text_files.FEW_FILES
    assert [document.text for document in many[: len(few)]] == [document.text for document in few]


def test_control_characters_and_halves_of_pairs_go_and_are_counted(tmp_path):
    path = write(
        tmp_path, "a.jsonl", '{"text": "A\\u0000 heart\\ud800 be\x7fats.\\r\\n\\tTwice. \\ud83d\\ude00"}\n{"text": "\\u0001"}\n'
    )
    documents = corpus(path)
    assert [document.text for document in documents] == ["A heart beats.\n\tTwice. 😀"]
    assert documents.dropped == {"control characters": 4, "empty rows": 1}
    prose = corpus(write(tmp_path, "a.txt", "A heart" + "\0" + " beats and the lungs fill with air. " * 10))
    assert "heart beats" in next(iter(prose)).text and prose.dropped == {"control characters": 1}


def test_what_is_passed_over_in_a_folder_is_counted_and_loops_end(tmp_path):
    write(tmp_path, "a.txt", TEXTS[2])
    (tmp_path / "b").mkdir()
    write(tmp_path / "b", "b.txt", TEXTS[0])
    write(tmp_path / "b", "b.png", "PNG")
    write(tmp_path, ".hidden.txt", "hidden")
    (tmp_path / ".git").mkdir()
    write(tmp_path / ".git", "c.txt", "hidden")
    for link, target in (("b/up", tmp_path), ("again", tmp_path / "b"), ("gone.txt", "nowhere"), ("self.txt", "self.txt")):
        (tmp_path / link).symlink_to(target)
    documents = corpus(tmp_path)
    assert [document.text for document in documents] == [TEXTS[2], TEXTS[0]]
    assert documents.dropped == {
        "hidden files": 2,
        "files of other kinds": 1,
        "folders linked twice": 2,
        "dangling links": 2,
    }


def test_prose_has_no_columns_to_fill_a_template_from(tmp_path, capsys):
    write(tmp_path, "notes.md", "A data set.")
    with pytest.raises(UserError, match=r"holds no text; .*files without columns: 1"):
        read(tmp_path, "text", "{en}")
    write(tmp_path, "a.jsonl", '{"en": "A heart."}')
    documents = corpus(tmp_path, "text", "{en}")
    assert [document.text for document in documents] == ["A heart."]
    assert documents.dropped["files without columns"] == 1
    assert f"{tmp_path}/notes.md: not read, since it has no columns" in capsys.readouterr().err


def test_json_beside_the_data_that_holds_no_array_is_passed_over_and_named(tmp_path, capsys):
    write(tmp_path, "a.jsonl", jsonl())
    write(tmp_path, "dataset_info.json", '{"features": ["text"]}')
    documents = corpus(tmp_path)
    assert [document.text for document in documents] == TEXTS
    assert documents.dropped["json files without an array"] == 1
    assert f"{tmp_path}/dataset_info.json: not read, since it holds no array of rows" in capsys.readouterr().err


def test_documents_come_as_they_are_read(tmp_path):
    """The first is there before a later file's fault is met: nothing is held together."""
    write(tmp_path, "a.jsonl", jsonl())
    write(tmp_path, "b.parquet", b"PAR1")
    documents = iter(corpus(tmp_path))
    assert [next(documents).text for _ in TEXTS] == TEXTS
    with pytest.raises(UserError, match=r"b\.parquet: not a readable parquet file"):
        next(documents)


MEASURE = """
import pathlib, resource, sys
from minigpts.corpus.readers.text_files import Columns, read_corpus
documents = read_corpus(pathlib.Path(sys.argv[1]), Columns("text")).documents
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
size = sum(len(document.text) for document in documents)
print(size, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_line_of_any_length_takes_a_few_megabytes(tmp_path):
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        for _ in range(15):
            file.write(b"neurology " * 100_000)
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    size, megabytes = map(int, done.stdout.split())
    assert size > 14_900_000 and megabytes < 8


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", jsonl() + "{'text'}\n", "a.jsonl:4: not valid JSON"),
        ("a.jsonl.gz", jsonl() + "[1]\n", "a.jsonl.gz:4: not a JSON object"),
        ("a.jsonl", jsonl() + '{"body": ""}\n', "a.jsonl:4: no column 'text'; there is body"),
        ("a.jsonl", '{"text": 3}', "a.jsonl:1: 'text' holds int, not text"),
        ("a.jsonl", jsonl().encode() + b'{"text": "caf\xe9"}\n', "a.jsonl:4: not UTF-8, which line 2 is"),
        ("a.jsonl", "\n", "a.jsonl: holds no text"),
        ("a.csv", "n,body\n1,x\n", "a.csv:2: no column 'text'; there is n, body; set dataset.text_column"),
        ("a.csv", "", "a.csv: holds no text"),
        ("a.csv", csv() + '4,"open\n', "a.csv:6: not valid CSV"),
        ("a.csv", csv() + "4\n", "a.csv:6: has fewer columns than the first line"),
        ("a.parquet", b"PAR1", "a.parquet: not a readable parquet file"),
        ("a.odt", b"", "a.odt: not a kind of text file"),
        ("a.json", '[{"text": "A heart."}, {"body": ""}]', "a.json: row 2: no column 'text'; there is body"),
        (
            "a.json",
            '{"text": "A heart."}',
            "a.json: holds no text; give a file with at least some documents (left out: files without",
        ),
    ],
)
def test_complaints_name_file_and_line_in_one_line(tmp_path, name, content, message):
    with pytest.raises(UserError) as caught:
        read(write(tmp_path, name, content))
    assert str(caught.value).removeprefix(f"{tmp_path}/").startswith(message)
    assert "\n" not in str(caught.value)


def test_a_truncated_gzip_file_is_named(tmp_path):
    path = write(tmp_path, "a.jsonl.gz", jsonl() * 100)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="not a whole gzip file"):
        read(path)


def test_missing_places_are_named(tmp_path):
    for path, message in ((tmp_path / "nowhere", "no such file or folder"), (tmp_path, "no text files in this folder")):
        with pytest.raises(UserError, match=message):
            read(path)
