from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from tokenizers import Tokenizer

from minigpts import artifacts
from minigpts.errors import UserError
from stages import count_tokens
from tests import tiny


@pytest.fixture(name="inputs")
def tokenizer_and_text(tmp_path: Path) -> list[str]:
    tiny.write_tokenizer(tmp_path)
    artifacts.write_table(tmp_path / "train.parquet", {"text": ["heart 12", "the heart"]})
    return ["--tokenizer", str(tmp_path / "tokenizer.json"), "--text", str(tmp_path / "train.parquet")]


def test_every_token_gets_a_row(inputs: list[str], tmp_path: Path) -> None:
    out = tmp_path / "counts.parquet"
    count_tokens.main([*inputs, "--out", str(out)])
    table = artifacts.read_table(out, ["token_id", "token", "count"])
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert table["token_id"] == list(range(tokenizer.get_vocab_size()))
    assert table["token"] == [tokenizer.id_to_token(token_id) for token_id in table["token_id"]]
    occurring = {token: count for token, count in zip(table["token"], table["count"], strict=True) if count}
    assert occurring["Ġheart"] == 1 and occurring["1"] == occurring["2"] == 1
    assert sum(occurring.values()) == sum(table["count"])


def test_tokens_of_general_text_count_too(inputs: list[str], tmp_path: Path) -> None:
    texts = {"general": ["2"], "written": [], "both": ["heart 12", "the heart", "2"]}
    for name, rows in texts.items():
        artifacts.write_table(tmp_path / f"{name}.parquet", {"text": pa.array(rows, pa.string())})
    general = [f"--{name}={tmp_path / name}.parquet" for name in ("general", "written")]
    count_tokens.main([*inputs, *general, "--out", str(tmp_path / "counts.parquet")])
    count_tokens.main([*inputs[:3], str(tmp_path / "both.parquet"), "--out", str(tmp_path / "expected.parquet")])
    assert (tmp_path / "counts.parquet").read_bytes() == (tmp_path / "expected.parquet").read_bytes()


def test_neither_torch_nor_transformers_is_imported(inputs: list[str], tmp_path: Path) -> None:
    program = (
        "import sys; from stages import count_tokens; count_tokens.main(sys.argv[1:]);"
        "sys.exit(', '.join({'torch', 'transformers', 'sklearn', 'datasets'} & sys.modules.keys()) or 0)"
    )
    command = [sys.executable, "-c", program, *inputs, "--out", str(tmp_path / "counts.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(count_tokens.__file__).parents[1])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("columns", "message"),
    [({"body": ["heart"]}, "no column 'text'; it has body"), ({"text": [""]}, "holds no text")],
    ids=["column", "empty"],
)
def test_bad_text_is_refused_and_the_old_counts_stay(
    inputs: list[str], tmp_path: Path, columns: dict[str, list[str]], message: str
) -> None:
    out = tmp_path / "counts.parquet"
    count_tokens.main([*inputs, "--out", str(out)])
    before = out.read_bytes()
    artifacts.write_table(tmp_path / "train.parquet", columns)
    with pytest.raises(UserError, match=rf"train\.parquet: {message}"):
        count_tokens.main([*inputs, "--out", str(out)])
    assert out.read_bytes() == before
