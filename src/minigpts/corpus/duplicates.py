"""Finds copies and near duplicates in a corpus of any size, with 256 bytes a document on disk and a tenth of that in memory.

Two documents are near duplicates when at least ``NEAR`` of all their runs of ``SHINGLE`` words are common to both (their Jaccard
index). Copies with three changed words in a hundred are always found, with eight hardly ever. The index is estimated by MinHash
(Broder 1997) from the lowest byte of ``SLOTS`` minima (b-bit minwise hashing, arXiv 0910.3349). Only documents that agree in all
``ROWS`` minima of some band are compared.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
from numpy.typing import NDArray

from minigpts.corpus.words import Words

T = TypeVar("T", bound=np.generic)

NEAR = 0.7  # the estimate's standard error there is 0.03
SHINGLE = 3  # words
SHORTEST = 20  # words; in a shorter text, a term or an entry of a table, a single word may be the point
SLOTS = 128
ROWS = 4  # of a band: documents at NEAR meet in one of 32 bands with probability 0.9998, at 0.3 with 0.23
NEIGHBOURS = 16  # that a document is compared with in a band; those that agree in the next band, too, come first
_PAIRS = 1 << 16  # compared at once, a matter of memory


class Duplicates:
    """Takes documents a batch at a time and then finds the copies and near duplicates of earlier ones."""

    def __init__(self, folder: Path) -> None:
        """``folder``: of the scratch files, which have no name, so that a kill leaves none."""
        self._long: list[NDArray[np.bool_]] = []  # of each batch, whether a text may be a near duplicate (documents,)
        self._texts: list[NDArray[np.uint64]] = []  # (documents,)
        self._sketches = _scratch(folder)  # uint8 (documents, SLOTS)
        self._bands = [_scratch(folder) for _ in range(SLOTS // ROWS)]  # uint32 (documents,) each

    def add(self, words: Words) -> None:
        """Add the next documents."""
        from rensa import RMinHash  # type: ignore[import-untyped]

        minima = RMinHash.digest_matrix_from_flat_token_hashes(words.shingles(SHINGLE), words.offsets.astype(np.uint64), SLOTS, 1)
        signatures = np.array(minima.to_rows(), dtype=np.uint32)
        bands = signatures.view(np.uint64).reshape(len(signatures), SLOTS // ROWS, ROWS // 2)
        keys = bands[:, :, 0] * np.uint64(0x9E3779B97F4A7C15) ^ bands[:, :, 1] * np.uint64(0xC2B2AE3D27D4EB4F)
        self._long.append(np.diff(words.offsets) >= SHORTEST)
        self._texts.append(words.texts())
        self._sketches.write(signatures.astype(np.uint8).tobytes())
        for file, band in zip(self._bands, keys.T, strict=True):
            file.write((band >> np.uint64(32)).astype(np.uint32).tobytes())

    def copies(self) -> NDArray[np.bool_]:
        """Which documents have the same words in the same order as an earlier one, (documents,)."""
        texts = _joined(self._texts)
        found = np.ones(len(texts), dtype=np.bool_)
        found[np.unique(texts, return_index=True)[1]] = False
        return found

    def near_duplicates(self, among: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Which of the documents ``among``, sorted, are near duplicates of an earlier one of them, (len(among),)."""
        found = np.zeros(len(among), dtype=np.bool_)
        long = np.flatnonzero(_joined(self._long)[among])
        among = among[long]
        self._sketches.flush()
        sketches = np.memmap(self._sketches, np.uint8, "r").reshape(-1, SLOTS)  # of which a few are read
        for band in range(len(self._bands)):
            keys, following = (self._keys((band + number) % len(self._bands))[among] for number in (0, 1))
            pairs = keys.astype(np.uint64)
            pairs <<= np.uint64(32)
            pairs |= following
            order = np.argsort(pairs, kind="stable")
            del pairs, following
            keys = keys[order]
            for step in range(1, NEIGHBOURS + 1):
                places = np.flatnonzero(keys[step:] == keys[:-step])
                if not len(places):
                    break
                for start in range(0, len(places), _PAIRS):
                    here = places[start : start + _PAIRS]
                    one, other = order[here], order[here + step]
                    near = (sketches[among[one]] == sketches[among[other]]).mean(axis=1) >= NEAR
                    found[long[np.maximum(one, other)[near]]] = True
        return found

    def _keys(self, band: int) -> NDArray[np.uint32]:
        """What the documents that meet in a band have in common, (documents,)."""
        self._bands[band].seek(0)
        return np.fromfile(self._bands[band], np.uint32)


def _scratch(folder: Path) -> IO[bytes]:
    return tempfile.TemporaryFile(dir=folder, prefix=".duplicates.", suffix=".partial")


def _joined(parts: list[NDArray[T]]) -> NDArray[T]:
    """The batches as one array, which replaces them in the list, so that memory holds them once."""
    parts[:] = [np.concatenate(parts)]
    return parts[0]
