"""What trimming does to the tokenizers of real models: what is kept and why, and how held-out and random text fares.

    python -m benchmarks.ratios.tokenizer_trimming [--tokenizer data/checkpoints/base …] [--train …] [--test …] [--threshold 0]
    python -m benchmarks.ratios.tokenizer_trimming --text domain.jsonl.gz   (documents in even places train, those in odd ones test)

The checkpoint's own, and two that a PyPI wheel carries: Mistral v1 (SentencePiece) and Mistral's tekken (tiktoken's kind).
Every one is trimmed into a temporary folder the way the stage does it, and compared with its parent.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models

from benchmarks.parity import published_tokenizers
from benchmarks.table import Row, print_rows
from minigpts import artifacts
from minigpts.model import checkpoint
from minigpts.vocabulary import counts, dialect, keep, trim

# Inclusive ranges of code points: ASCII, controls, Latin, Greek and Cyrillic, Hebrew and Arabic, Devanagari, combining marks,
# punctuation and spaces, CJK, Hangul, emoji, private use, and every plane (surrogates are no characters).
RANGES = (
    *((0x20, 0x7E),) * 4,
    (0x00, 0x1F),
    (0xA0, 0x24F),
    (0x370, 0x4FF),
    (0x590, 0x6FF),
    (0x900, 0x97F),
    (0x300, 0x36F),
    (0x2000, 0x206F),
    (0x3040, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0x1F300, 0x1FAFF),
    (0xE000, 0xF8FF),
    (0x10000, 0x10FFFF),
)


def random_strings(count: int, seed: int = 0) -> Iterator[str]:
    """Seeded strings of 1 to 24 characters, each character from a range of its own or from the last one's."""
    generator = random.Random(seed)
    for _ in range(count):
        characters = []
        low, high = generator.choice(RANGES)
        for _ in range(generator.randint(1, 24)):
            if generator.random() < 0.3:
                low, high = generator.choice(RANGES)
            characters.append(chr(generator.randint(low, high)))
        yield "".join(characters)


@dataclass(frozen=True)
class Trimmed:
    """A tokenizer before and after."""

    definition: Mapping[str, Any]  # the parent's tokenizer.json
    parent: Tokenizer
    child: Tokenizer
    reasons: Mapping[int, str]  # why each kept id stays


def trimmed(directory: Path, texts: Iterable[str], threshold: float) -> Trimmed:
    """The tokenizer of a folder cut down to what ``texts`` hold, as the stage prune_embeddings does it."""
    parent = checkpoint.load_fast_tokenizer(directory)
    definition = artifacts.read_json(directory / "tokenizer.json")
    special: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        if (directory / name).exists():
            special |= trim.needed_ids(artifacts.read_json(directory / name), counts.tokens_of(parent), name)
    template = keep.template_ids(directory, parent)
    reasons = keep.tokens_to_keep(definition, counts.count_tokens(parent, texts), threshold, special, template)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for companion in checkpoint.COMPANIONS:
            if (directory / companion).exists():
                shutil.copyfile(directory / companion, folder / companion)
        trim.trim_files(folder, definition, parent, list(reasons))
        return Trimmed(definition, parent, checkpoint.load_fast_tokenizer(folder), reasons)


def num_ancestors(definition: Mapping[str, Any], reasons: Mapping[int, str]) -> int:
    """Tokens kept if every ancestor of a kept token stayed, along every merge that makes it."""
    vocab = definition["model"]["vocab"]
    parents: dict[str, set[str]] = {}
    for left, right in dialect.ranks(definition):
        parents.setdefault(left + right, set()).update((left, right))
    kept = {token for token, token_id in vocab.items() if reasons.get(token_id, "builds") != "builds"}
    queue = list(kept)
    while queue:
        new = parents.get(queue.pop(), set()) - kept
        kept |= new
        queue.extend(new)
    return len({vocab[token] for token in kept} | reasons.keys())


def num_idle_builders(definition: Mapping[str, Any], reasons: Mapping[int, str]) -> int:
    """Tokens booked as builders that no other kept token is merged through: their removal would change no derivation."""
    ranks = dialect.ranks(definition)
    kept = {token: reasons[token_id] for token, token_id in definition["model"]["vocab"].items() if token_id in reasons}
    built: dict[str, str] = {}
    for token in (token for token, reason in kept.items() if reason != "builds"):
        for symbol in keep.derivation(token, ranks):
            built.setdefault(symbol, token)
    builders = [token for token, reason in kept.items() if reason == "builds"]
    return sum(not _passes_through(built.get(builder, ""), builder, kept, ranks) for builder in builders)


def _passes_through(token: str, builder: str, kept: Mapping[str, str], ranks: dialect.Ranks) -> bool:
    """Does the ``tokenizers`` library merge ``builder`` on its way to ``token``?

    With every rule but those that read ``builder``, the steps are the same until it is merged, and then it stays.
    """
    places = range(len(token) + 1)
    vocab = {part for end in places for start in range(end) if (part := token[start:end]) in kept}
    splits = {(part[:cut], part[cut:]) for part in vocab for cut in range(1, len(part))}
    merges = sorted((pair for pair in splits & ranks.keys() if vocab.issuperset(pair)), key=ranks.__getitem__)
    model = models.BPE(
        {symbol: index for index, symbol in enumerate(sorted(vocab))}, [pair for pair in merges if builder not in pair]
    )
    return builder in [found.value for found in model.tokenize(token)]


def report(directory: Path, train: Sequence[str], test: Sequence[str], threshold: float, num_random: int) -> list[Row]:
    """The proof on one tokenizer, as (what, measured, goal)."""
    it = trimmed(directory, train, threshold)
    lines = [line for text in test for line in text.splitlines() if line]
    by_reason = ", ".join(f"{reason} {number:,}" for reason, number in Counter(it.reasons.values()).most_common())
    return [
        ("tokens kept", f"{len(it.reasons):,} of {it.parent.get_vocab_size():,} ({by_reason})", ""),
        ("tokens kept, with every ancestor instead", f"{num_ancestors(it.definition, it.reasons):,}", "not fewer"),
        ("tokens kept as builders that build none", f"{num_idle_builders(it.definition, it.reasons):,}", "0"),
        *_held_out(it, lines),
        *_random(it, list(random_strings(num_random))),
    ]


def _held_out(it: Trimmed, lines: Sequence[str]) -> list[Row]:
    before, after = ([*tokenizer.encode_batch(lines, add_special_tokens=False)] for tokenizer in (it.parent, it.child))
    new_ids = {old: new for new, old in enumerate(it.reasons)}
    all_kept = [(old, new) for old, new in zip(before, after, strict=True) if new_ids.keys() >= set(old.ids)]
    differing = 0
    for old, new in all_kept:
        expected = zip([new_ids[token_id] for token_id in old.ids], old.tokens, old.offsets, strict=True)
        differing += sum(a != b for a, b in zip_longest(expected, zip(new.ids, new.tokens, new.offsets, strict=True)))
    tokens = sum(len(old.ids) for old, _ in all_kept)
    texts = it.parent.decode_batch([old.ids for old in before]), it.child.decode_batch([new.ids for new in after])
    extra = sum(len(new.ids) for new in after) / sum(len(old.ids) for old in before) - 1
    return [
        (
            "tokens that differ (id, string or offsets) in held-out lines whose tokens were all kept",
            f"{differing:,} of {tokens:,} in {len(all_kept):,} lines",
            "0",
        ),
        ("held-out lines decoded as with the parent's", f"{_equal(*texts):,} of {len(lines):,}", "all"),
        ("more tokens on held-out text", f"{extra:.2%}", ""),
    ]


def _random(it: Trimmed, strings: Sequence[str]) -> list[Row]:
    ids = [
        [encoding.ids for encoding in tokenizer.encode_batch_fast(strings, add_special_tokens=False)]
        for tokenizer in (it.parent, it.child)
    ]
    texts = [tokenizer.decode_batch(found) for tokenizer, found in zip((it.parent, it.child), ids, strict=True)]
    unknown = [sum(token_id in line for line in found) for token_id, found in zip(_unknown_ids(it), ids, strict=True)]
    return [
        ("random Unicode strings decoded as with the parent's", f"{_equal(*texts):,} of {len(strings):,}", "all"),
        ("random Unicode strings with an unknown token", f"{unknown[1]:,} (the parent's {unknown[0]:,})", "not more"),
    ]


def _unknown_ids(it: Trimmed) -> list[int | None]:
    token = it.definition["model"].get("unk_token") or ""
    return [tokenizer.token_to_id(token) for tokenizer in (it.parent, it.child)]


def _equal(before: Sequence[str], after: Sequence[str]) -> int:
    return sum(old == new for old, new in zip(before, after, strict=True))


def all_reports(
    directories: Sequence[Path], train: Sequence[str], test: Sequence[str], threshold: float, num_random: int
) -> list[Row]:
    """The proof on the folders' tokenizers and on the published ones, the tokenizer's name before each row."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = {str(directory): directory for directory in directories} | published_tokenizers.write_published(Path(scratch))
        return [
            (f"{name}: {what}", measured, goal)
            for name, folder in folders.items()
            for what, measured, goal in report(folder, train, test, threshold, num_random)
        ]


def rows(directory: Path, train: Path, test: Path, threshold: float = 0.0, num_random: int = 100_000) -> list[Row]:
    """The proof with the pipeline's own text: trimmed to ``train``, tested on ``test`` (parquet files)."""
    before, after = (artifacts.read_table(path, ["text"])["text"] for path in (train, test))
    return all_reports([directory], before, after, threshold, num_random)


def halves(path: Path) -> tuple[list[str], list[str]]:
    """The documents of a jsonl.gz file in even and in odd places."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        documents = [json.loads(line)["text"] for line in file]
    return documents[::2], documents[1::2]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, nargs="+", default=[Path("data/checkpoints/base")], help="checkpoint folders")
    parser.add_argument("--train", type=Path, default=Path("data/prepared/train.parquet"))
    parser.add_argument("--test", type=Path, default=Path("data/prepared/test.parquet"))
    parser.add_argument("--text", type=Path, help="jsonl.gz file with a field 'text', instead of --train and --test")
    parser.add_argument("--threshold", type=float, default=0.0)
    parser.add_argument("--random", type=int, default=100_000, help="random strings to decode")
    args = parser.parse_args()
    if args.text:
        train, test = halves(args.text)
    else:
        train, test = (artifacts.read_table(path, ["text"])["text"] for path in (args.train, args.test))
    print_rows(all_reports(args.tokenizer, train, test, args.threshold, args.random))


if __name__ == "__main__":
    main()
