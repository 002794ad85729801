"""Count how often each of the tokenizer's tokens occurs in the training text."""

from __future__ import annotations

from collections.abc import Sequence

from minigpts import params
from minigpts.errors import UserError, exit_cleanly

FLAGS = {
    "tokenizer": "a checkpoint's tokenizer.json",
    "text": "parquet file with a column 'text'",
    "out": "parquet file to write: token_id, token, count",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage with the flags of dvc.yaml. It has no parameters and imports no torch."""
    args = params.flags(argv, __doc__, FLAGS)

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
