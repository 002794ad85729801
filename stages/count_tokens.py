"""Count how often each of the tokenizer's tokens occurs in the training text."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from minigpts.errors import UserError, exit_cleanly


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage with the flags of dvc.yaml. It has no parameters and imports no torch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a checkpoint's tokenizer.json")
    parser.add_argument("--text", type=Path, required=True, help="parquet file with a column 'text'")
    parser.add_argument("--out", type=Path, required=True, help="parquet file to write: token_id, token, count")
    args = parser.parse_args(argv)

    from tqdm import tqdm

    from minigpts import artifacts
    from minigpts.model import checkpoint
    from minigpts.vocabulary.counts import count_tokens, write_counts

    tokenizer = checkpoint.load_fast_tokenizer(args.tokenizer.parent)
    num_texts, texts = artifacts.stream_column(args.text, "text")
    counts = count_tokens(tokenizer, tqdm(texts, total=num_texts, desc="counting tokens", unit="text"))
    if counts.sum() == 0:
        raise UserError(f"{args.text}: holds no text; check the data set")
    write_counts(args.out, tokenizer, counts)
    print(f"{counts.sum():,} tokens in {num_texts:,} texts; {(counts > 0).sum():,} of {len(counts):,} tokens occur")


if __name__ == "__main__":
    exit_cleanly(main)
