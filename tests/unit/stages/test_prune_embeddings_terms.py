"""The stage with a glossary and with a validation text: 100 rare terms that the training text doesn't hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, trainers

from minigpts import artifacts
from minigpts.model import checkpoint
from minigpts.vocabulary.counts import count_tokens, write_counts
from minigpts.vocabulary.terms import spellings
from stages import prune_embeddings
from tests import tiny

TEXT = tiny.sentences(40)
RARE = [
    f"{a}{b}{c}"
    for a in ["xeno", "myo", "dys", "hyper"]
    for b in ["kerat", "fibr", "gloss", "neur", "chond"]
    for c in ["oma", "itis", "al", "ic", "osis"]
]
VALIDATION = [f"the {term} near the heart" for term in [*RARE, *RARE]]


class Run:
    """A parent whose vocabulary has a token for each rare term, after a space and at the start; TEXT holds none of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "pruned"
        self.parent = tiny.write_checkpoint(folder / "parent", vocab_size=1500)
        self._teach_terms(self.parent / "tokenizer.json")
        tokenizer = checkpoint.load_fast_tokenizer(self.parent)
        assert all(len(tokenizer.encode(f" {term}").ids) == 1 for term in RARE)
        write_counts(folder / "counts.parquet", tokenizer, count_tokens(tokenizer, TEXT))
        (folder / "terms.json").write_text(json.dumps(RARE))
        artifacts.write_table(folder / "validation.parquet", {"text": VALIDATION})

    def _teach_terms(self, path: Path) -> None:
        stock = Tokenizer.from_file(str(path))
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer, tokenizer.decoder = stock.pre_tokenizer, stock.decoder
        trainer = trainers.BpeTrainer(
            vocab_size=1500,
            special_tokens=[AddedToken(token, special=True, normalized=False) for token in tiny.SPECIAL],
            initial_alphabet=[chr(value) for value in range(33, 127)],
            show_progress=False,
        )
        tokenizer.train_from_iterator([*tiny.sentences(300), *VALIDATION], trainer)
        alphabet = [token for token in stock.get_vocab() if len(token) == 1]
        vocab = tokenizer.get_vocab()
        definition = json.loads(tokenizer.to_str())
        missing = [token for token in sorted(alphabet) if token not in vocab]
        definition["model"]["vocab"] |= {token: len(vocab) + place for place, token in enumerate(missing)}
        path.write_text(json.dumps(definition))

    def __call__(self, *with_flags: str, threshold: float = 0.0) -> dict:
        (self.folder / "params.yaml").write_text(f"embedding_threshold: {threshold}\n")
        names = {"counts": "counts.parquet", "params": "params.yaml", "metrics": "metrics.json", "out": "pruned"}
        names |= {flag: {"keep-terms": "terms.json", "validation": "validation.parquet"}[flag] for flag in with_flags}
        flags = [word for flag, name in names.items() for word in (f"--{flag}", str(self.folder / name))]
        prune_embeddings.main(["--model", str(self.parent), *flags])
        return artifacts.read_json(self.folder / "metrics.json")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("rare"))


@pytest.mark.parametrize("threshold", [0.0, 0.01])
def test_a_hundred_rare_terms_still_encode_as_the_parent_encodes_them(run: Run, threshold: float) -> None:
    metrics = run("keep-terms", threshold=threshold)
    parent, child = (checkpoint.load_fast_tokenizer(folder) for folder in (run.parent, run.out))
    for text in (text for term in RARE for text in spellings(term)):
        assert child.encode(text).tokens == parent.encode(text).tokens
    table = artifacts.read_table(run.out / "pruned_tokens.parquet", ["token", "reason", "new_id", "count"])
    reason_of = dict(zip(table["token"], table["reason"], strict=True))
    assert {reason_of[f"Ġ{term}"] for term in RARE} == {"glossary"}
    assert metrics["tokens_kept"]["glossary"] == table["reason"].count("glossary") >= 100
    assert metrics["vocab_size_after"] == child.get_vocab_size()


def test_without_the_glossary_the_warning_names_them(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = run("validation")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert metrics["validation_terms_spelled_longer"] == [f"{term} (2)" for term in sorted(RARE)]
    assert metrics["num_validation_terms_spelled_longer"] == 100
    assert " 100 words of the validation text" in line and f"{min(RARE)} (2)" in line
    assert metrics["tokens_kept"]["glossary"] == 0


def test_with_the_glossary_nothing_is_warned_of(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("validation", "keep-terms")["validation_terms_spelled_longer"] == []
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("terms", [[], ["keep-terms"]])
def test_the_validation_text_never_changes_what_is_kept(run: Run, terms: list[str]) -> None:
    run(*terms)
    files = {path.name: path.read_bytes() for path in run.out.iterdir()}
    run("validation", *terms)
    assert {path.name: path.read_bytes() for path in run.out.iterdir()} == files
