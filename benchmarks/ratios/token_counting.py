"""The speed of counting tokens against what ``tokenizers`` itself needs to encode the same text.

python -m benchmarks.ratios.token_counting [--tokenizer data/checkpoints/base] [--text data/prepared/train.parquet]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.table import Row, print_rows
from minigpts import artifacts
from minigpts.model import checkpoint
from minigpts.vocabulary.counts import count_tokens


def rows(directory: Path, text: Path, repeats: int = 11) -> list[Row]:
    """Best of ``repeats``, alternating: counting from the file on, and ``encode_batch`` on the texts in memory."""
    tokenizer = checkpoint.load_fast_tokenizer(directory)
    texts = artifacts.read_table(text, ["text"])["text"]
    counting, encoding = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        num_tokens = int(count_tokens(tokenizer, artifacts.stream_column(text, "text")[1]).sum())
        counting.append(time.perf_counter() - start)
        start = time.perf_counter()
        encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
        encoding.append(time.perf_counter() - start)
        del encodings
    ratio = min(encoding) / min(counting)
    return [(f"token counting over encode_batch, tokens/s ({num_tokens:,} tokens)", f"{ratio:.2f} ×", "≥ 0.9 ×")]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, default=Path("data/checkpoints/base"), help="checkpoint folder")
    parser.add_argument("--text", type=Path, default=Path("data/prepared/train.parquet"))
    args = parser.parse_args()
    print_rows(rows(args.tokenizer, args.text))


if __name__ == "__main__":
    main()
