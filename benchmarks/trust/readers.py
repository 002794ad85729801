"""Every reader of a stranger's file: inputs that were valid before they were damaged, how it is read, what must then be true."""

from __future__ import annotations

import csv
import functools
import importlib
import io
import json
import random
import re
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from benchmarks.trust.mutations import DEEP, VALUES, damaged, damaged_bytes, dumped
from minigpts import artifacts, params
from minigpts.corpus.chats import Renderer
from minigpts.corpus.domains import obo
from minigpts.corpus.readers import encodings, text_files
from minigpts.corpus.readers.question_files import read_questions
from minigpts.corpus.readers.term_lists import read_terms
from minigpts.importing import gguf, local_folder, spm
from minigpts.model.families import SPECS
from minigpts.model.weights import StoredWeights, read_tensors
from minigpts.vocabulary import keep, trim
from tests import tiny
from tests.unit.corpus import chat_templates
from tests.unit.corpus.readers.files import SPM_NORMALIZER, SPM_PIECES, SPM_TRAINER, sentencepiece_model, write_gguf
from tests.unit.vocabulary.builders import KINDS

Input = tuple[str, bytes]  # the name of a file, and what is in it
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Reader:
    """One reader under test."""

    inputs: st.SearchStrategy[Input]
    read: Callable[[Path], object]  # raises AssertionError where what was read isn't what the file says
    share: float = 1.0  # of the examples: one that builds a model takes a hundred times as long as one of rows


def readers(folder: Path) -> dict[str, Reader]:
    """All of them by name; ``folder`` is for a tiny checkpoint that some of them need."""
    model = tiny.write_checkpoint(folder / "model")
    found = {
        **{f"text {kind}": Reader(_rows(kind, TEXTS), _texts) for kind in ROW_KINDS},
        "text txt": Reader(_prose(), _texts),
        "encodings": Reader(_encoded(), _encoded_text),
        "chats": Reader(
            st.one_of(_rows("jsonl", CHATS), _rows("parquet", CHATS[:2])), functools.partial(_texts, renderer=Renderer(model))
        ),
        **{f"questions {name}": Reader(inputs, _questions) for name, inputs in _question_files().items()},
        "terms": Reader(_named("terms.txt", damaged_bytes("heart\n# organs\n liver \nvéna cava\n".encode())), read_terms),
        "obo": Reader(_named("hp.obo", damaged_bytes(OBO.encode(), (b"\n", b'"', b"\\", b": ", b"[Term]", b"()", b"  "))), _obo),
        "params.yaml": Reader(_params(), _params_of),
        "safetensors": Reader(_safetensors(model), _tensors),
        "stages' files": Reader(_stage_files(), _artifact),
        "GGUF": Reader(_gguf(folder, model), lambda path: gguf.read(path, _float32()), 0.05),
        "SentencePiece": Reader(_sentencepiece(), lambda path: spm.read(path, True, True)),
        "tokenizer.json": Reader(_tokenizers(), functools.partial(_in_folder, _of_any_tokenizer(model, folder / "wide")), 0.1),
        "chat template": Reader(_templates(), functools.partial(_in_folder, model), 0.1),
        "config.json": Reader(_configs(), functools.partial(_in_folder, model), 0.1),
        "settings of a model": Reader(_settings(model), functools.partial(_in_folder, model), 0.1),
        **{f"trimmed {kind}": _trimmed(make()) for kind, make in KINDS.items()},
    }
    return found


def _named(name: str, contents: st.SearchStrategy[bytes]) -> st.SearchStrategy[Input]:
    return contents.map(lambda content: (name, content))


def _float32() -> Any:
    import torch

    return torch.float32


# Text and questions

ROW_KINDS = ("jsonl", "json", "csv", "tsv", "parquet")
TEXTS = [
    {"text": text, "group": f"g{number}"} for number, text in enumerate(["The heart beats.", "Ein Lüftchen.", "心臓 🫀", "a\nb, c"])
]
TURNS = [{"role": "user", "content": "What beats?"}, {"role": "assistant", "content": "The heart."}]
CALL = {"id": "1", "type": "function", "function": {"name": "pulse", "arguments": '{"of": "heart"}'}}
CHATS: list[dict[str, Any]] = [
    {"messages": TURNS, "system": "Be brief."},
    {
        "messages": [
            *TURNS,
            {"role": "user", "content": "And?"},
            {"role": "assistant", "content": [{"type": "text", "text": "So."}]},
        ]
    },
    {"conversations": [{"from": "human", "value": "What beats?"}, {"from": "gpt", "value": "The heart."}]},
    {"prompt": "What beats?", "completion": "The heart."},
    {"instruction": "Say it.", "input": "heart", "output": "The heart."},
    {"question": "What beats?", "answer": "The heart."},
    {
        "messages": [
            TURNS[0],
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "72"},
            TURNS[1],
        ],
        "tools": [{"type": "function", "function": {"name": "pulse", "parameters": {"type": "object", "properties": {}}}}],
    },
]


def _rows(kind: str, rows: Sequence[Mapping[str, Any]]) -> st.SearchStrategy[Input]:
    """Rows whose values are damaged, and files whose bytes are."""
    valid = _written(kind, rows)
    sound = st.sampled_from([row for row in VALUES if row != DEEP]).map(lambda value: [*rows, {**rows[0], "text": value}])
    trees = st.one_of(damaged(list(rows)), sound).map(lambda tree: _written(kind, tree))
    return st.one_of(_named(f"a.{kind}", trees), _named(f"a.{kind}", damaged_bytes(valid)))


def _written(kind: str, rows: Any) -> bytes:
    """The rows in a format, as well as it can hold them."""
    listed = rows if isinstance(rows, list) else [rows]
    if kind == "json":
        return dumped(rows)
    if kind == "jsonl":
        return b"".join(dumped(row, escaped=number % 2 == 0) + b"\n" for number, row in enumerate(listed))
    if kind == "parquet":
        return _parquet(listed)
    names = list(dict.fromkeys(name for row in listed if isinstance(row, dict) for name in row)) or ["text"]
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t" if kind == "tsv" else ",", lineterminator="\n")
    cells = ([row.get(name) for name in names] if isinstance(row, dict) else [row] for row in listed)
    writer.writerows([names, *([_cell(cell) for cell in row] for row in cells)])
    return text.getvalue().encode("utf-8", "surrogatepass")


def _cell(value: Any) -> str:
    return str(value)[:5000] if not isinstance(value, list | dict) else dumped(value).decode()[:5000]


def _parquet(rows: list[Any]) -> bytes:
    """Each column of the type that its values share; as text where they share none."""
    import pyarrow
    import pyarrow.parquet

    columns = {}
    for name in dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row):
        values = [row.get(name) if isinstance(row, dict) else None for row in rows]
        try:
            columns[name] = pyarrow.array(values)
        except (pyarrow.ArrowException, UnicodeEncodeError, OverflowError):
            columns[name] = pyarrow.array([_cell(value).encode("utf-8", "replace").decode() for value in values])
    file = io.BytesIO()
    try:
        pyarrow.parquet.write_table(pyarrow.table(columns), file)
    except (pyarrow.ArrowException, UnicodeEncodeError):  # an object without fields
        return b"PAR1"
    return file.getvalue()


def _texts(path: Path, renderer: Renderer | None = None) -> object:
    texts = text_files.read_corpus(path, text_files.Columns("text"), render=None if renderer is None else renderer.render).documents
    found, dropped = list(texts), getattr(texts, "dropped", Counter())
    left_out = dropped["empty rows"] + sum(count for reason, count in dropped.items() if reason.startswith("chats "))
    _check_count(path, len(found) + left_out, len({document.text for document in found}))
    return found


def _check_count(path: Path, read: int, distinct: int = 0) -> None:
    """Compare with the rows that another reader finds, where one reads the same format."""
    kind = path.suffix
    if kind == ".parquet":
        import pyarrow.parquet

        assert read == pyarrow.parquet.ParquetFile(path).metadata.num_rows
        return
    if kind not in (".jsonl", ".json", ".csv"):
        return
    text = path.read_bytes().decode(encodings.encoding_of(path))
    if kind == ".jsonl":
        assert read == sum(not line.isspace() for line in re.split("\r\n|\r|\n", text) if line)
    elif kind == ".json":
        whole = json.loads(text)
        assert read == len(whole if isinstance(whole, list) else whole["questions"])
    else:
        rows = sum(any(cell.strip() for cell in row) for row in csv.reader(io.StringIO(text, newline="")))
        assert read in (rows - 1, rows)  # MMLU's layout has no header


def _prose() -> st.SearchStrategy[Input]:
    text = "The heart beats.\n\nA lung — “breathes”.\r\nNaïve façade: 心臓 🫀.\n" * 3
    files = [text.encode(codec, "ignore") for codec in ("utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252", "gb18030", "shift_jis")]
    return _named("a.txt", st.sampled_from(files).flatmap(damaged_bytes))


CODECS = (
    *(
        "utf-8",
        "utf-8-sig",
        "utf-16",
        "utf-32",
        "utf-16-le",
        "utf-32-be",
        "utf-7",
        "cp1250",
        "cp1251",
        "cp1252",
        "cp1253",
        "cp1254",
    ),
    *(
        "cp1255",
        "cp1256",
        "koi8_r",
        "iso8859_15",
        "mac_roman",
        "cp437",
        "gb18030",
        "big5",
        "shift_jis",
        "euc_jp",
        "euc_kr",
        "iso2022_jp",
    ),
)


def _encoded() -> st.SearchStrategy[Input]:
    """Text of any characters that an encoding has; the name of the file says which it was."""
    letters = st.sampled_from('abz 019.,\n\r\t"é¿ßŁçščžабвгдяαβωאבجدĞş€–“心臓漢字かなカ한글🫀\u00a0\u200d')
    pairs = st.tuples(st.sampled_from(CODECS), st.text(letters, min_size=1, max_size=300))
    return pairs.map(lambda pair: (f"{pair[0]}.txt", pair[1].encode(pair[0], "ignore")))


def _encoded_text(path: Path) -> object:
    """A file that says what it is, by its mark or as UTF-8, is read to the letter."""
    found = "".join(document.text for document in text_files.read_corpus(path, text_files.Columns("text")).documents)
    if path.stem in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        meant = path.read_bytes().decode(path.stem)
        assert "".join(found.split()) == "".join(meant.removeprefix("\ufeff").split())
    return found


QUESTION = {"question": "Which organ beats?", "choices": ["heart", "lung", "nail"], "answer": "A"}
ARC = {
    "id": "1",
    "question": {"stem": "What beats?", "choices": [{"text": "heart", "label": "A"}, {"text": "lung", "label": "B"}]},
    "answerKey": "A",
}
MEDMCQA = {"question": "What beats?", "opa": "heart", "opb": "lung", "opc": "nail", "opd": "hair", "cop": 1}
SCIQ = {"question": "What beats?", "distractor1": "lung", "distractor2": "nail", "distractor3": "hair", "correct_answer": "heart"}
RACE = {"question": "What beats?", "options": ["heart", "lung"], "answer": 0}
LABELLED = {"question": "What beats?", "choices": {"text": ["heart", "lung"], "label": ["1", "2"]}, "answerKey": "2"}
PAPER = {
    "context": "Anatomy",
    "questions": {
        "What beats?": {"choices": ["heart", "lung"], "answer": "heart"},
        "What grows?": {"choices": ["hair", "bone"], "answer": 0},
    },
}


def _question_files() -> dict[str, st.SearchStrategy[Input]]:
    layouts = (QUESTION, ARC, MEDMCQA, SCIQ, RACE, LABELLED)
    sets = [[row, row] for row in layouts]
    header = b"question,A,B,C,answer\nWhat beats?,heart,lung,nail,A\nWhat grows?,bone,hair,skin,hair\n"
    mmlu = b'What beats?,heart,lung,nail,hair,A\n"What, then, grows?",bone,hair,skin,eye,B\nWhat sees?,ear,eye,toe,leg,B\n'
    cells = b"question,choices,answer\nWhat beats?,\"['heart', 'lung']\",A\n"
    cells += b'What grows?,"{""text"": [""hair"", ""bone""], ""label"": [""1"", ""2""]}",1\n'
    return {
        "jsonl": st.sampled_from(sets).flatmap(functools.partial(_rows, "jsonl")),
        "json": st.sampled_from(sets).flatmap(functools.partial(_rows, "json")),
        "of the paper": _named("a.json", st.one_of(damaged(PAPER).map(dumped), damaged_bytes(dumped(PAPER)))),
        "csv": _named("a.csv", st.sampled_from([header, mmlu, cells]).flatmap(damaged_bytes)),
    }


def _questions(path: Path) -> object:
    dropped = Counter[str]()
    found = read_questions(path, dropped)
    _check_count(path, len(found) + dropped["duplicate questions"] + dropped["questions with an empty choice"])
    assert all(0 <= question.answer < len(question.choices) for question in found)
    return found


OBO = """format-version: 1.2
data-version: hp/releases/2025-01-16

[Term]
id: HP:0000001
name: All

[Term]
id: HP:0000118
name: Phenotypic abnormality
def: "A \\"phenotypic\\" abnormality (PMID:1)." [HPO:probinson]
comment: Root of all. Note that this is a term.
synonym: "Organ abnormality" EXACT layperson []
is_a: HP:0000001 ! All

[Term]
id: HP:0000002
is_obsolete: true
"""


def _obo(path: Path) -> object:
    return obo.parse(path.read_text(encoding="utf-8", errors="replace"))


# params.yaml, and what stages hand on


@functools.cache
def _sections() -> dict[str, type]:
    """The dataclass of each section of params.yaml."""
    classes = {
        **{
            name: "Params"
            for name in ("fetch_model", "profile_activations", "finetune", "evaluate", "measure_damage", "prune_neurons")
        },
        **{name: "Params" for name in ("check_budget", "write_general", "export")},
    }
    named = {"fetch_model": "model", "profile_activations": "profile", "measure_damage": "damage", "check_budget": "budget"}
    found = {named.get(stage, stage): getattr(importlib.import_module(f"stages.{stage}"), cls) for stage, cls in classes.items()}
    evaluate, prepare = importlib.import_module("stages.evaluate"), importlib.import_module("stages.prepare_dataset")
    return found | {"speech": evaluate.SpeechParams, "runtime": params.Runtime, "dataset": prepare.Settings}


def _params() -> st.SearchStrategy[Input]:
    whole = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    pieces = (
        *(
            b"&a ",
            b"*a",
            b"!!python/object/apply:os.getcwd []",
            b"<<: ",
            b"? ",
            b"- ",
            b": ",
            b"{",
            b"[",
            b"\n",
            b"  ",
            b"\t",
            b"|",
        ),
        *(b"!!binary a", b"1_000", b"0x1f", b".nan", b".inf", b"2024-01-01", b"'", b'"', b"%", b"---\n", b"#", b"\x00", b"\xff"),
        *(b"!!set ", b"\xc2\x85"),
    )
    values = [value for value in VALUES if value != DEEP and not (isinstance(value, str) and "\ud800" in value)]

    def of_section(name: str) -> st.SearchStrategy[Input]:
        section = {name: whole[name]}
        text = yaml.safe_dump(section, sort_keys=False).encode()
        trees = damaged(section, values).map(lambda tree: yaml.dump(tree, sort_keys=False).encode("utf-8", "surrogatepass"))
        return _named(f"{name}.yaml", st.one_of(trees, damaged_bytes(text, pieces)))

    return st.sampled_from(sorted(_sections())).flatmap(of_section)


def _params_of(path: Path) -> object:
    return params.read(path, _sections()[path.stem], path.stem)


def _stage_files() -> st.SearchStrategy[Input]:
    rows = [{"text": "a", "number": 1}, {"text": "b", "number": 2}]
    written = {"a.json": dumped(rows[0]), "a.jsonl": _written("jsonl", rows), "a.csv": b"a,b\n1,2\n", "a.parquet": _parquet(rows)}
    return st.sampled_from(sorted(written)).flatmap(lambda name: _named(name, damaged_bytes(written[name])))


def _artifact(path: Path) -> object:
    readers: dict[str, Callable[[Path], object]] = {
        ".json": artifacts.read_json,
        ".jsonl": artifacts.read_jsonl,
        ".csv": artifacts.read_csv,
        ".parquet": lambda path: (artifacts.read_table(path, ["text"]), list(artifacts.stream_column(path, "number")[1])),
    }
    return readers[path.suffix](path)


# Models


def _safetensors(model: Path) -> st.SearchStrategy[Input]:
    content = (model / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8:start]), content[start:]
    small = {name: header[name] for name in sorted(header, key=lambda name: len(str(header[name])))[:6]}
    sizes = [2**63, 2**62, 0, 2**32, 100_000_001, start, start - 8]

    def of(tree: Any) -> bytes:
        text = dumped(tree)
        return len(text).to_bytes(8, "little") + text + data

    trees = st.one_of(damaged(small), damaged(header)).map(of)
    lengths = st.sampled_from(sizes).map(lambda size: (size % 2**64).to_bytes(8, "little") + content[8:])
    return _named("model.safetensors", st.one_of(trees, trees, lengths, damaged_bytes(content, within=start)))


def _tensors(path: Path) -> object:
    stored = dict(StoredWeights(path.parent).items())
    read = read_tensors(path)
    assert stored.keys() == read.keys() and all(tensor.shape == read[name].shape for name, tensor in stored.items())
    return stored


def _gguf(folder: Path, model: Path) -> st.SearchStrategy[Input]:
    from gguf import GGUFReader

    path = write_gguf(folder / "model.gguf", model)
    content, reader = path.read_bytes(), GGUFReader(path)
    metadata = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    tensors = [
        [t.name, [int(n) for n in t.shape], int(t.tensor_type), int(t.data_offset - reader.data_offset)] for t in reader.tensors
    ]
    data = content[reader.data_offset :]
    trees = damaged({"metadata": metadata, "tensors": tensors}).map(lambda tree: _gguf_file(tree, data))
    return _named(
        "model.gguf", st.one_of(trees, damaged_bytes(content, within=400), damaged_bytes(content, within=reader.data_offset))
    )


def _gguf_file(tree: Any, data: bytes) -> bytes:
    """A GGUF file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) that says what the tree does, right or wrong."""
    tree = tree if isinstance(tree, dict) else {}
    metadata, tensors = tree.get("metadata"), tree.get("tensors")
    metadata, tensors = metadata if isinstance(metadata, dict) else {}, tensors if isinstance(tensors, list) else []
    content = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    content += b"".join(_gguf_text(name) + _gguf_value(value, True) for name, value in metadata.items())
    for tensor in tensors:
        name, shape, kind, start = [*tensor, 0, 0, 0, 0][:4] if isinstance(tensor, list) else (tensor, 0, 0, 0)
        sizes = shape if isinstance(shape, list) else [shape]
        content += _gguf_text(name) + struct.pack("<I", len(sizes)) + b"".join(map(_number, sizes))
        content += _number(kind)[:4] + _number(start)
    return content + bytes(-len(content) % 32) + data


def _number(value: Any) -> bytes:
    whole = int(value) if isinstance(value, int | float) and value == value and abs(value) < 1e300 else len(str(value))
    return (whole % 2**64).to_bytes(8, "little")


def _gguf_text(value: Any) -> bytes:
    text = str(value).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text


def _gguf_value(value: Any, typed: bool) -> bytes:
    kind: int
    if isinstance(value, bool):
        kind, packed = 7, bytes([value])
    elif isinstance(value, int):
        kind, packed = (4, _number(value)[:4]) if 0 <= value < 2**32 else (10, _number(value))
    elif isinstance(value, float):
        kind, packed = 6, struct.pack("<f", value if abs(value) < 3e38 else float("inf"))
    elif isinstance(value, list):
        items = [_gguf_value(item, True) for item in value]
        first = items[0][:4] if items else struct.pack("<I", 4)
        kind, packed = 9, first + len(items).to_bytes(8, "little") + b"".join(item[4:] for item in items)
    else:
        kind, packed = 8, _gguf_text(value)
    return (struct.pack("<I", kind) if typed else b"") + packed


def _sentencepiece() -> st.SearchStrategy[Input]:
    few = [list(piece) for piece in [*SPM_PIECES[:8], *SPM_PIECES[-15:]]]
    tree = {"pieces": few, "trainer": {str(key): value for key, value in SPM_TRAINER.items()}, "normalizer": {"4": 0}}
    valid = sentencepiece_model([tuple(piece) for piece in few], SPM_TRAINER, SPM_NORMALIZER)  # type: ignore[misc]
    bits = (b"\xff" * 10, b"\x80" * 40, b"\x08", b"\x0a", b"\x12", b"\x7f", b"\x00", b"\x1d", b"\x0d", b"\x0b")
    return _named("tokenizer.model", st.one_of(damaged(tree).map(_sentencepiece_file), damaged_bytes(valid, bits)))


def _sentencepiece_file(tree: Any) -> bytes:
    tree = tree if isinstance(tree, dict) else {}
    pieces, settings = tree.get("pieces"), [tree.get("trainer"), tree.get("normalizer")]

    def value(found: Any) -> Any:
        number = isinstance(found, int | float) and not isinstance(found, bool)
        return (
            (found if isinstance(found, float) else found % 2**64)
            if number and abs(found) < 3e38
            else str(found).encode("utf-8", "replace")
        )

    triples = [[*piece, 0, 0, 0][:3] for piece in pieces if isinstance(piece, list)] if isinstance(pieces, list) else []
    fields = [
        {int(key): value(item) for key, item in each.items() if key.isdecimal()} if isinstance(each, dict) else {}
        for each in settings
    ]
    return sentencepiece_model(
        [(str(text).encode("utf-8", "replace").decode(), value(score), value(kind)) for text, score, kind in triples], *fields
    )


def _in_folder(model: Path, path: Path) -> object:
    """Read the file as a part of a model's folder, with the tiny checkpoint's other files."""
    for other in model.iterdir():
        link = path.parent / other.name
        if other.name != path.name and not link.exists() and other.suffix != ".safetensors":
            link.write_bytes(other.read_bytes())
    return local_folder.describe(path.parent, _float32())


def _of_any_tokenizer(model: Path, folder: Path) -> Path:
    """A folder whose other files fit the tokenizer of every dialect."""
    folder.mkdir()
    config = artifacts.read_json(model / "config.json") | {"vocab_size": 2000}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name, values in {"config.json": config, "tokenizer_config.json": settings, "generation_config.json": {}}.items():
        (folder / name).write_text(json.dumps(values))
    return folder


def _tokenizers() -> st.SearchStrategy[Input]:
    definitions = [make() for make in KINDS.values()]
    kinds = [
        "BPE",
        "Unigram",
        "WordPiece",
        "ByteLevel",
        "Metaspace",
        "Sequence",
        "Replace",
        "Strip",
        "NFC",
        "Split",
        "TemplateProcessing",
        "Fuse",
    ]

    def of(definition: dict[str, Any]) -> st.SearchStrategy[bytes]:
        around = {name: value for name, value in definition.items() if name != "model"}
        small = {name: value for name, value in definition["model"].items() if name not in ("vocab", "merges")}
        of_model = {"vocab": definition["model"]["vocab"], "merges": definition["model"]["merges"]}
        values = (*VALUES, *kinds, "(", "(a+)+$", {"type": "Nothing"})
        return st.one_of(
            damaged(around, values).map(
                lambda tree: dumped({**tree, "model": definition["model"]} if isinstance(tree, dict) else tree)
            ),
            damaged(small, values).map(
                lambda tree: dumped({**definition, "model": {**tree, **of_model} if isinstance(tree, dict) else tree})
            ),
            damaged(definition, values).map(dumped),
        )

    return _named("tokenizer.json", st.sampled_from(definitions).flatmap(of))


def _templates() -> st.SearchStrategy[Input]:
    pieces = (
        *(
            "{{",
            "}}",
            "{%",
            "%}",
            "{#",
            "-%}",
            "{{ messages }}",
            "{{ messages[9].content }}",
            "{{ m.content * 99999999 }}",
            "{{ 1 // 0 }}",
        ),
        *(
            "{% for a in range(99999) %}{% for b in range(99999) %}",
            "{% endfor %}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        ),
        *(
            "{{ 10 ** 10 ** 10 }}",
            "{{ '%0999999999d' % 1 }}",
            "{{ 'a'.ljust(999999999) }}",
            "{{ [1] * 999999999 }}",
            "{{ strftime_now('%9999Y') }}",
        ),
        *(
            "{{ ''.__class__ }}",
            "{{ m | tojson(indent=999999) }}",
            "{{ m | map('upper') | list }}",
            "{% include 'a' %}",
            "{% import 'a' as b %}",
        ),
        *(
            "{{ raise_exception(messages) }}",
            "{{ caller() }}",
            "{% break %}",
            "{{ days }}",
            "{{ namespace(a=1).b }}",
            "\x00",
            "\ud800",
            "é🫀",
        ),
        *(
            "{% set messages = 1 %}",
            "{{ '{0}'.format(m) }}",
            "{{ m.content | replace('', 'a' * 9999) }}",
            "{% generation %}",
            "{{ (" * 500,
        ),
    )
    encoded = tuple(piece.encode("utf-8", "surrogatepass") for piece in pieces)
    valid = [family.template.encode() for family in chat_templates.FAMILIES.values()] + [tiny.CHAT_TEMPLATE.encode()]
    return _named("chat_template.jinja", st.sampled_from(valid).flatmap(lambda text: damaged_bytes(text, encoded)))


def _configs() -> st.SearchStrategy[Input]:
    """Every family's, with the vocabulary of the tiny tokenizer."""
    families = {name: tiny.config(name, 480).to_dict() for name in SPECS}
    values = (*VALUES, "gelu", "float16", "yarn", ["full_attention"], {"rope_type": "linear", "factor": 2.0}, *SPECS)
    return _named(
        "config.json", st.sampled_from(sorted(families)).flatmap(lambda name: damaged(families[name], values)).map(dumped)
    )


def _settings(model: Path) -> st.SearchStrategy[Input]:
    """The other JSON files of a checkpoint's folder."""
    special = {"bos_token": {"content": "<|im_start|>", "lstrip": False}, "eos_token": "<|im_end|>"}
    found: dict[str, Any] = {
        name: json.loads((model / name).read_text()) for name in ("generation_config.json", "tokenizer_config.json")
    }
    found["generation_config.json"] |= {
        "temperature": 0.7,
        "suppress_tokens": [3],
        "bad_words_ids": [[4]],
        "sequence_bias": [[[5], 1.0]],
    }
    found["tokenizer_config.json"] |= {
        "added_tokens_decoder": {"0": {"content": "<|endoftext|>", "special": True}},
        "chat_template": "x",
    }
    found |= {"special_tokens_map.json": special, "added_tokens.json": {"<|im_end|>": 2}}
    found["model.safetensors.index.json"] = {"weight_map": {"lm_head.weight": "model-1.safetensors"}}
    return st.sampled_from(sorted(found)).flatmap(lambda name: _named(name, damaged(found[name]).map(dumped)))


# Tokenizers


def _trimmed(definition: Mapping[str, Any]) -> Reader:
    """Strings through a dialect's tokenizer and through four trimmed ones, which must spell and decode alike."""
    from tokenizers import Tokenizer

    parent, ids = Tokenizer.from_str(json.dumps(definition)), sorted(definition["model"]["vocab"].values())
    samples = [random.Random(seed).sample(ids, len(ids) // 3) for seed in range(4)]
    kept = [list(keep.closure(definition, sample, (), ())) for sample in samples]
    children = [Tokenizer.from_str(json.dumps(trim.trim(definition, each))) for each in kept]
    spelled = sorted({parent.decode([token], skip_special_tokens=False) for token in range(parent.get_vocab_size())})
    parts = st.one_of(
        st.sampled_from(spelled), st.text(st.characters(exclude_categories=["Cs"]), max_size=4), st.sampled_from([" ", "\n"])
    )

    def read(path: Path) -> object:
        text = path.read_bytes().decode()
        whole = parent.encode(text)
        for child, staying in zip(children, kept, strict=True):
            found = child.encode(text)
            assert not {*whole.ids} <= {*staying} or found.tokens == whole.tokens
            assert child.decode(found.ids, skip_special_tokens=False) == parent.decode(whole.ids, skip_special_tokens=False)
        return whole

    strings = st.lists(parts, min_size=1, max_size=12).map(lambda found: "".join(found).encode())
    return Reader(_named("text.txt", strings), read, 0.5)
