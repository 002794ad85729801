"""Memory and speed of preparing and counting a folder of text larger than memory should hold.

python -m benchmarks.scale.corpus [--megabytes 1000] [--tokenizer data/checkpoints/base] [--folder scratch folder]

The text is made of words of chance, frequent ones by Zipf's law and each a few letters long, so that it is as long as prose, in
words and in tokens, and no document resembles another. The measure of speed is what ``tokenizers`` needs in the same run to
encode the same text, already in memory, with ``encode_batch``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from benchmarks.scale.processes import Usage, watch
from benchmarks.table import Row, print_rows
from minigpts.model import checkpoint

WORDS = 50_000
DOCUMENT_WORDS = (40, 400)
FILE_BYTES = 20_000_000
SAMPLE_BYTES = 5_000_000  # of the same text, that is encoded for comparison


def vocabulary(tokenizer: Path, chance: np.random.Generator) -> np.ndarray:
    """Words that the tokenizer knows as a whole, as most of prose is, and for every other one two of them together."""
    tokens = checkpoint.load_fast_tokenizer(tokenizer).get_vocab()
    known = sorted(token[1:] for token in tokens if token[0] in "Ġ▁" and token[1:].isascii() and token[1:].isalpha())
    chance.shuffle(known)
    pairs = (first + second.lower() for first, second in zip(known, chance.permutation(known), strict=True))
    return np.array([*known, *pairs][:WORDS], dtype=np.object_)


def documents(words: np.ndarray, num_bytes: int, seed: int) -> Iterator[str]:
    """Documents of two paragraphs with ``num_bytes`` together."""
    chance = np.random.default_rng(seed)
    cumulated = np.cumsum(1 / np.arange(3, len(words) + 3))
    size = 0
    while size < num_bytes:
        counts = chance.integers(*DOCUMENT_WORDS, 1000)
        drawn = words[np.searchsorted(cumulated, chance.random(counts.sum()) * cumulated[-1])]
        for part in np.split(drawn, np.cumsum(counts)[:-1]):
            middle = len(part) // 2
            text = f"{' '.join(part[:middle]).capitalize()}.\n\n{' '.join(part[middle:]).capitalize()}."
            size += len(text)
            yield text
            if size >= num_bytes:
                return


def write_folder(folder: Path, words: np.ndarray, megabytes: int) -> None:
    """Files of documents, one a line of JSON with no character to escape but the line's end."""
    folder.mkdir(parents=True)
    for number, start in enumerate(range(0, megabytes * 1_000_000, FILE_BYTES)):
        with (folder / f"{number:04}.jsonl").open("w", encoding="utf-8") as file:
            for text in documents(words, min(FILE_BYTES, megabytes * 1_000_000 - start), number):
                file.write('{"text": "' + text.replace("\n", "\\n") + '"}\n')


def write_params(folder: Path, text: Path) -> Path:
    """The project's own params, with this text in place of its domain's."""
    values = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["dataset"]
    values |= {"source": str(text), "text_column": "text", "template": None, "group_column": None, "questions": None}
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump({"dataset": values}), encoding="utf-8")
    return path


def encoding_seconds(tokenizer: Path, words: np.ndarray, num_bytes: int) -> float:
    """Seconds that ``encode_batch`` takes for ``num_bytes`` of the text, from a sample of it."""
    texts = list(documents(words, min(SAMPLE_BYTES, num_bytes), 0))
    fast = checkpoint.load_fast_tokenizer(tokenizer)
    start = time.perf_counter()
    for first in range(0, len(texts), 1000):
        fast.encode_batch(texts[first : first + 1000], add_special_tokens=False)
    return (time.perf_counter() - start) * num_bytes / sum(map(len, texts))


def stage(name: str, *arguments: str | Path) -> Usage:
    """Run a stage in a process of its own."""
    return watch([sys.executable, "-m", f"stages.{name}", *arguments])


def rows(tokenizer: Path, megabytes: int, folder: Path) -> list[Row]:
    """Run both stages on a new text, and ``encode_batch`` before and after them."""
    words = vocabulary(tokenizer, np.random.default_rng(0))
    write_folder(folder / "text", words, megabytes)
    params, prepared, num_bytes = write_params(folder, folder / "text"), folder / "prepared", megabytes * 1_000_000
    before = encoding_seconds(tokenizer, words, num_bytes)
    preparing = stage("prepare_dataset", "--out", prepared, "--metrics", folder / "dataset.json", "--params", params)
    train, counts = prepared / "train.parquet", folder / "token_counts.parquet"
    counting = stage("count_tokens", "--tokenizer", tokenizer / "tokenizer.json", "--text", train, "--out", counts)
    encoding = (before + encoding_seconds(tokenizer, words, num_bytes)) / 2
    seconds, cpu_seconds = preparing.seconds + counting.seconds, preparing.cpu_seconds + counting.cpu_seconds
    both = Usage(seconds, cpu_seconds, max(preparing.peak_rss, counting.peak_rss), 0)
    print(f"encode_batch {num_bytes / encoding / 1e6:.2f} MB/s, preparing {num_bytes / preparing.seconds / 1e6:.2f} MB/s")
    measured = {"prepare_dataset": preparing, "count_tokens": counting, "both, one after the other": both}
    return [
        row
        for name, usage in measured.items()
        for row in (
            (f"{name}: speed over encode_batch ({megabytes} MB)", f"{encoding / usage.seconds:.2f} ×", "≥ 0.8 ×"),
            (f"{name}: memory at most", f"{usage.peak_rss / 1e6:,.0f} MB", "≤ 1,000 MB"),
        )
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="of text, 10^6 bytes; default: %(default)s")
    parser.add_argument("--tokenizer", type=Path, default=Path("data/checkpoints/base"), help="checkpoint folder")
    parser.add_argument("--folder", type=Path, help="where some four times as much is written, and removed; default: the system's")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        print_rows(rows(args.tokenizer.absolute(), args.megabytes, Path(folder)))


if __name__ == "__main__":
    main()
