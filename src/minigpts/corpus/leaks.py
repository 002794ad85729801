"""Looks for text that training would see and the evaluation then asks for.

Two documents are near-duplicates when their TF-IDF vectors over words and word pairs have a cosine of at least
``NEAR_DUPLICATE``. A question is given away by a text that shares ``RUN`` words in a row with its evidence, the field's usual
measure of contamination (GPT-3, arXiv 2005.14165), or that holds a shorter evidence whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from minigpts.corpus.document import normalized

NEAR_DUPLICATE = 0.7
RUN = 13  # words
SHORTEST_RUN = 4  # words; "joint pain" gives nothing away
_ROWS = 4096  # documents compared at once, a matter of memory


def near_duplicates(texts: Sequence[str], held_out: Sequence[str]) -> tuple[set[int], int]:
    """Indices of the ``texts`` with a near-duplicate among ``held_out``, and the number of such pairs."""
    if not texts or not held_out:
        return set(), 0
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    vectorizer = HashingVectorizer(n_features=2**20, ngram_range=(1, 2), alternate_sign=False, norm=None, token_pattern=r"\w+")
    counts = vectorizer.transform(held_out)
    # The weights come from the held-out side alone, so that dropping a text doesn't change what the others look like.
    weights = TfidfTransformer(sublinear_tf=True).fit(counts)
    reference = weights.transform(counts).T.tocsc()
    found: set[int] = set()
    pairs = 0
    for start in range(0, len(texts), _ROWS):
        cosine = (weights.transform(vectorizer.transform(texts[start : start + _ROWS])) @ reference).tocoo()
        near = cosine.data >= NEAR_DUPLICATE
        pairs += int(near.sum())
        found.update(start + int(row) for row in cosine.row[near])
    return found, pairs


def giveaways(texts: Sequence[str], evidence: Sequence[str]) -> set[int]:
    """Indices of the ``texts`` that share a run of ``RUN`` words with some evidence, or hold a shorter one whole."""
    runs: set[tuple[str, ...]] = set()
    for passage in evidence:
        words = normalized(passage).split()
        length = min(RUN, len(words))
        runs.update(tuple(words[start : start + length]) for start in range(len(words) - length + 1) if length >= SHORTEST_RUN)
    heads = {run[:SHORTEST_RUN] for run in runs}
    lengths = sorted({len(run) for run in runs})

    def gives_away(words: list[str]) -> bool:
        starts = [at for at in range(len(words) - SHORTEST_RUN + 1) if tuple(words[at : at + SHORTEST_RUN]) in heads]
        return any(tuple(words[at : at + length]) in runs for at in starts for length in lengths)

    return {index for index, text in enumerate(texts) if gives_away(normalized(text).split())}
