"""What dataset.keep_terms is worth on the real tokenizer: rare terms that the training text never holds, with it and without it.

Run after ``make repro``: ``python -m benchmarks.experiments.keep_terms``. The terms are words of one
token each; the validation text mentions every one twice more. The stage prune_embeddings runs as it is, with the project's params.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path

from minigpts import artifacts
from minigpts.errors import UserError, exit_cleanly
from minigpts.model import checkpoint
from minigpts.vocabulary.choice import VocabularyChoice
from minigpts.vocabulary.terms import spellings
from stages import prune_embeddings

BASE, PREPARED, COUNTS = Path("data/checkpoints/base"), Path("data/prepared"), Path("data/profile/token_counts.parquet")
WORD = re.compile("Ġ([a-z]{7,})")  # of a byte-level vocabulary: a space, then the word


def absent(number: int) -> list[str]:
    """Words of one token that stand nowhere in the training text, the first in the order of the vocabulary.

    Raises UserError when the vocabulary has fewer.
    """
    choice = VocabularyChoice.of(BASE, checkpoint.load_config(BASE), COUNTS)
    text = "\n".join(artifacts.read_table(PREPARED / "train.parquet", ["text"])["text"]).lower()
    vocab = sorted(choice.definition["model"]["vocab"].items(), key=lambda item: item[1])
    unseen = (found[1] for token, index in vocab if choice.counts[index] == 0 and (found := WORD.fullmatch(token)))
    words = [word for word in unseen if word not in text]
    if len(words) < number:
        raise UserError(f"the vocabulary has {len(words)} words that the training text lacks, wanted {number}")
    return words[:number]


def trimmed(folder: Path, validation: Path, *more: str) -> tuple[Path, set[str]]:
    """Run prune_embeddings on the parent; gives the child's folder and the words that its metrics name as spelled longer."""
    arguments = ["--model", str(BASE), "--counts", str(COUNTS), "--validation", str(validation)]
    prune_embeddings.main([*arguments, "--out", str(folder / "child"), "--metrics", str(folder / "metrics.json"), *more])
    named = artifacts.read_json(folder / "metrics.json")["validation_terms_spelled_longer"]
    return folder / "child", {term.rpartition(" (")[0] for term in named}


def main() -> None:
    """Cut twice and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--terms", type=int, default=100, help="how many (default: %(default)s)")
    words = absent(parser.parse_args().terms)
    parent = checkpoint.load_fast_tokenizer(BASE)
    texts = [text for word in words for text in spellings(word)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        artifacts.write_json(folder / "terms.json", words)
        lines = [f"Here is {word}, and {word} again." for word in words for _ in range(2)]
        validation = artifacts.read_table(PREPARED / "validation.parquet", ["text"])["text"]
        artifacts.write_table(folder / "validation.parquet", {"text": [*validation, *lines]})
        for name, flags in {"without": [], "with": ["--keep-terms", str(folder / "terms.json")]}.items():
            child, named = trimmed(folder, folder / "validation.parquet", *flags)
            tokenizer = checkpoint.load_fast_tokenizer(child)
            same = sum(tokenizer.encode(text).tokens == parent.encode(text).tokens for text in texts)
            print(
                f"{name} the glossary: {tokenizer.get_vocab_size():,} tokens; {same:,} of {len(texts):,} spellings as the parent's;"
                f" {len(named & set(words))} of {len(words)} terms named as spelled longer"
            )


if __name__ == "__main__":
    exit_cleanly(main)
