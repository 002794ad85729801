"""What trimming does to the tokenizer of a real model: what is kept and why, and how held-out and random text fares.

    python -m benchmarks.tokenizer_trimming [--tokenizer data/checkpoints/base] [--train ...] [--test ...] [--threshold 0]

Trims in memory and compares with the parent's tokenizer; nothing is written.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from benchmarks.table import Row, print_rows
from minigpts import artifacts, checkpoint
from minigpts.vocabulary import keep, trim
from minigpts.vocabulary.counts import count_tokens

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


def trimmed_tokenizer(directory: Path, texts: Sequence[str], threshold: float) -> tuple[Tokenizer, dict[int, str]]:
    """A checkpoint's tokenizer trimmed to what ``texts`` hold, and why each kept id stays."""
    parent = checkpoint.load_fast_tokenizer(directory)
    definition = artifacts.read_json(directory / "tokenizer.json")
    special = trim.needed_ids(checkpoint.load_config(directory).to_dict(), parent.get_vocab_size(), f"{directory}/config.json")
    template = keep.template_ids(checkpoint.load_tokenizer(directory), parent)
    reasons = keep.tokens_to_keep(definition, count_tokens(parent, texts), threshold, special, template)
    child = Tokenizer.from_str(json.dumps(trim.trim(definition, list(reasons))))
    child.no_truncation()
    child.no_padding()
    return child, reasons


def num_ancestors(definition: dict, reasons: dict[int, str]) -> int:
    """Tokens kept if every ancestor of a kept token stayed, along every merge that makes it."""
    vocab = definition["model"]["vocab"]
    parents: dict[str, set[str]] = {}
    for merge in definition["model"]["merges"]:
        left, right = trim.parts_of(merge)
        parents.setdefault(left + right, set()).update((left, right))
    kept = {token for token, token_id in vocab.items() if reasons.get(token_id, "builds") != "builds"}
    queue = list(kept)
    while queue:
        new = parents.get(queue.pop(), set()) - kept
        kept |= new
        queue.extend(new)
    return len({vocab[token] for token in kept} | reasons.keys())


def rows(directory: Path, train: Path, test: Path, threshold: float = 0.0, num_random: int = 100_000) -> list[Row]:
    """The proof on a real tokenizer, as (what, measured, goal)."""
    lines = [line for text in artifacts.read_table(test, ["text"])["text"] for line in text.splitlines() if line]
    parent = checkpoint.load_fast_tokenizer(directory)
    child, reasons = trimmed_tokenizer(directory, artifacts.read_table(train, ["text"])["text"], threshold)
    before = parent.encode_batch_fast(lines, add_special_tokens=False)
    after = child.encode_batch_fast(lines, add_special_tokens=False)
    all_kept = [(old, new) for old, new in zip(before, after, strict=True) if reasons.keys() >= set(old.ids)]
    identical = sum(old.tokens == new.tokens for old, new in all_kept)
    same_text = sum(child.decode(new.ids) == parent.decode(old.ids) for old, new in zip(before, after, strict=True))
    extra = sum(len(new.ids) for new in after) / sum(len(old.ids) for old in before) - 1
    unknown = child.token_to_id(artifacts.read_json(directory / "tokenizer.json")["model"].get("unk_token") or "")
    strings = list(random_strings(num_random))
    same_random = sum(_decoded(parent, text) == _decoded(child, text) for text in strings)
    unknowns = sum(unknown in child.encode(text, add_special_tokens=False).ids for text in strings) if unknown is not None else 0
    return [
        ("tokens kept", f"{len(reasons):,} of {parent.get_vocab_size():,}", ""),
        ("  by reason", ", ".join(f"{reason} {number:,}" for reason, number in Counter(reasons.values()).most_common()), ""),
        (
            "  with every ancestor instead",
            f"{num_ancestors(artifacts.read_json(directory / 'tokenizer.json'), reasons):,}",
            "not fewer",
        ),
        ("held-out lines whose tokens were all kept: identical", f"{identical:,} of {len(all_kept):,}", "all"),
        ("held-out lines decoded as with the parent's", f"{same_text:,} of {len(lines):,}", "all"),
        ("more tokens on held-out text", f"{extra:.2%}", ""),
        ("random Unicode strings decoded as with the parent's", f"{same_random:,} of {num_random:,}", "all"),
        ("random Unicode strings with an unknown token", f"{unknowns:,}", "0"),
    ]


def _decoded(tokenizer: Tokenizer, text: str) -> str:
    return tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, default=Path("data/checkpoints/base"), help="checkpoint folder")
    parser.add_argument("--train", type=Path, default=Path("data/prepared/train.parquet"))
    parser.add_argument("--test", type=Path, default=Path("data/prepared/test.parquet"))
    parser.add_argument("--threshold", type=float, default=0.0)
    args = parser.parse_args()
    print_rows(rows(args.tokenizer, args.train, args.test, args.threshold))


if __name__ == "__main__":
    main()
