"""Count how often each of the tokenizer's tokens occurs in the training text, and in general text where there is any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minigpts import params, ranks
from minigpts.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FLAGS = {
    "tokenizer": "a checkpoint's tokenizer.json",
    "text": "parquet file with a column 'text'",
    "out": "parquet file to write: token_id, token, count",
}
OPTIONAL = {
    "general": "parquet of the user's general text, which may have no row",
    "written": "parquet of the general text that the parent wrote, which may have no row",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage with the flags of dvc.yaml. It has no parameters, and one process alone imports no torch."""
    args = params.flags(argv, __doc__, FLAGS, OPTIONAL)

    from tqdm import tqdm

    from minigpts import artifacts
    from minigpts.model import checkpoint
    from minigpts.vocabulary.counts import count_tokens, write_counts

    tokenizer = checkpoint.load_fast_tokenizer(args.tokenizer.parent)

    def counted(path: Path) -> NDArray[np.int64]:
        number, texts = artifacts.stream_column(path, "text")
        return count_tokens(tokenizer, tqdm(texts, total=number, desc=f"counting tokens of {path.name}", unit="text"))

    counts = counted(args.text)
    if counts.sum() == 0:
        raise UserError(f"{args.text}: holds no text; check the data set")
    for general in filter(None, (args.general, args.written)):
        counts += counted(general)
    if not ranks.is_main():
        return
    write_counts(args.out, tokenizer, counts)
    print(f"{counts.sum():,} tokens; {(counts > 0).sum():,} of {len(counts):,} occur")


if __name__ == "__main__":
    ranks.launch(main)
