"""From documents to rows of equally many token ids, in two ways, and the tokens that stand around a document.

* :func:`pack_stream` lays documents end to end and cuts the stream, so every token of a row is a document's. Profiling and
  the refit of a pruned model use it: they need activations of text, not the documents' ends (GPT pre-training packs so).
* :func:`pack_documents` lays whole documents into rows, each row padded a little at its end. Fine-tuning uses it, with
  :func:`minigpts.model.forward.document_mask`, so that a model is tuned on the very context it is scored with.

The BOS token of a packed document is the one that stands before a scored one. No torch here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from minigpts.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedConfig

BATCH_TEXTS = 256  # encoded at a time: enough to keep every thread busy, little enough to stop early
IGNORED = -100  # the label of a token that is no target: a document's first, and padding
CONTEXT = -101  # the label of a token inside a document that is no target either: in a chat, what others than the model say

Spans = Sequence[Sequence[int]]  # of characters: first, and one beyond the last; in order, and apart


@dataclass(frozen=True)
class Boundaries:
    """The token ids that stand around a document."""

    bos: int  # what the model expects before a text
    end: int  # what it says when a text is over


def encode_lazily(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[np.ndarray]:
    """The token ids of each text as int64 of shape (tokens,), without special tokens, a batch of texts ahead at most."""
    for start in range(0, len(texts), BATCH_TEXTS):
        batch = tokenizer.encode_batch_fast(list(texts[start : start + BATCH_TEXTS]), add_special_tokens=False)
        yield from (np.array(encoding.ids, dtype=np.int64) for encoding in batch)


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """The token ids of all texts, each int64 of shape (tokens,), without special tokens."""
    return list(encode_lazily(tokenizer, texts))


def encode_with_targets(
    tokenizer: Tokenizer, texts: Sequence[str], spans: Sequence[Spans | None]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The token ids of each text as :func:`encode_lazily` has them, and which of them are targets, bool of shape (tokens,).

    A token is one if it shares a character with one of the text's ``spans``; without spans (None) every token is.
    """
    if all(those is None for those in spans):
        yield from ((ids, np.ones(len(ids), dtype=np.bool_)) for ids in encode_lazily(tokenizer, texts))
        return
    # A post-processor adds nothing here, but may move offsets off the white space that a token begins or ends with.
    plain = copy.deepcopy(tokenizer)
    plain.post_processor = None  # type: ignore[assignment]
    for start in range(0, len(texts), BATCH_TEXTS):
        batch = slice(start, start + BATCH_TEXTS)
        encodings = plain.encode_batch(list(texts[batch]), add_special_tokens=False)
        for text, those, encoding in zip(texts[batch], spans[batch], encodings, strict=True):
            offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
            yield np.array(encoding.ids, dtype=np.int64), _touching(offsets, len(text), those)


def _touching(offsets: np.ndarray, length: int, spans: Spans | None) -> np.ndarray:
    """Which offsets (tokens, 2) into a text of ``length`` characters share a character with a span; all of them for None."""
    if spans is None:
        return np.ones(len(offsets), dtype=np.bool_)
    inside = np.zeros(length + 1, dtype=np.int64)  # characters of spans before each character
    for first, end in spans:
        inside[first + 1 : end + 1] = 1
    before = inside.cumsum()
    return before[offsets[:, 1]] > before[offsets[:, 0]]


# What stands around a text


def tokens_before(tokenizer: Tokenizer) -> list[int]:
    """The ids that the tokenizer's post-processor puts before a text, in order; none where it puts none there.

    What it puts behind a text (Roberta's ``</s>``, a template's end of text, ``add_eos_token``) is left out: a model that is
    asked how a text goes on must not be told that the text is over.
    """
    encoding = tokenizer.encode("a")  # an empty text would not say which tokens are before it and which behind
    return encoding.ids[: [*encoding.special_tokens_mask, 0].index(0)]


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids of a text that a model goes on from: with what the tokenizer puts before a text, and nothing behind it."""
    return [*tokens_before(tokenizer), *tokenizer.encode(prompt, add_special_tokens=False).ids]


def boundaries(tokenizer: Tokenizer, config: PreTrainedConfig) -> Boundaries:
    """The ids around a document: before it what the tokenizer itself puts first, after it the config's end of text.

    A tokenizer that puts nothing before a text leaves it to the text before to end: such a model was trained on text behind its
    end of text. A config without one ends with its beginning of text. Raises UserError when it names neither.
    """
    named = (getattr(config, name, None) for name in ("eos_token_id", "bos_token_id"))
    firsts = (value[0] if isinstance(value, list | tuple) and value else value for value in named)
    end = next((int(value) for value in firsts if isinstance(value, int)), None)  # id 0 is a valid token
    if end is None:
        raise UserError("config.json: needs an eos_token_id or a bos_token_id, to separate documents with")
    return Boundaries(bos=next(iter(tokens_before(tokenizer)), end), end=end)


def require_positions(config: PreTrainedConfig, sequence_length: int, name: str) -> None:
    """Raise a UserError, naming the parameter, when sequences are longer than what the model was made for."""
    limit = config.max_position_embeddings
    if sequence_length > limit:
        raise UserError(f"params.yaml: {name} must be at most {limit}, the model's max_position_embeddings, got {sequence_length}")


# A stream, cut: for profiling and the refit


def pack_texts(
    tokenizer: Tokenizer, config: PreTrainedConfig, texts: Sequence[str], sequence_length: int, max_tokens: int | None = None
) -> np.ndarray:
    """The texts as :func:`pack_stream` packs them, within the model's own boundaries; encodes no more of them than that takes."""
    return pack_stream(encode_lazily(tokenizer, texts), boundaries(tokenizer, config), sequence_length, max_tokens)


def pack_stream(
    documents: Iterable[np.ndarray], around: Boundaries, sequence_length: int, max_tokens: int | None = None
) -> np.ndarray:
    """Cut the stream ``bos doc end bos doc end`` into int64 of shape (num_sequences, sequence_length).

    Where one token is both, it stands once between two documents. The incomplete last piece is dropped. With ``max_tokens``, at
    most that many tokens are packed (but one sequence at least) and no more documents are drawn than that takes, so a lazy
    iterable is never encoded to its end. Raises UserError when the documents don't fill one sequence.
    """
    limit = None if max_tokens is None else max(max_tokens // sequence_length, 1) * sequence_length
    bos = np.array([around.bos], dtype=np.int64)
    between = bos if around.bos == around.end else np.array([around.end, around.bos], dtype=np.int64)
    pieces = [bos]
    total = 1
    for document in documents:
        pieces += [document, between]
        total += len(document) + len(between)
        if limit is not None and total >= limit:
            total = limit
            break
    if total < sequence_length:
        raise UserError(
            f"the text has {total} tokens, less than one sequence of {sequence_length}; give more text or a smaller sequence_length"
        )
    rows = total // sequence_length
    return np.concatenate(pieces)[: rows * sequence_length].reshape(rows, sequence_length)


# Whole documents in rows: for fine-tuning


def cut_document(ids: np.ndarray, around: Boundaries, sequence_length: int) -> Iterator[np.ndarray]:
    """``bos ids end`` as it is, or cut so that every token is once predicted by those before it in its piece, if too long."""
    yield from cut(np.concatenate([[around.bos], ids, [around.end]]), sequence_length)


def cut(whole: np.ndarray, sequence_length: int) -> Iterator[np.ndarray]:
    """Pieces of ``whole`` (values,), each of which begins with the last value of the one before it."""
    for start in range(0, len(whole) - 1, sequence_length - 1):
        yield whole[start : start + sequence_length]


def pack_documents(pieces: Sequence[np.ndarray], sequence_length: int, targets: Sequence[np.ndarray] | None = None) -> np.ndarray:
    """Lay pieces into rows, longest first, each where it leaves the least room: ids and labels, (rows, 2, sequence_length).

    Best-fit packing without truncation, arXiv 2404.10830: there is next to no padding, which fills half of the usual batches of
    one document a row. The label of a piece's first token, and of padding, is ``IGNORED``.
    Where ``targets`` say which tokens of each piece are some, the label of any other is ``CONTEXT``.
    """
    labels = pieces if targets is None else [np.where(those, ids, CONTEXT) for ids, those in zip(pieces, targets, strict=True)]
    members: list[list[int]] = []  # of each row
    with_room: list[list[int]] = [[] for _ in range(sequence_length + 1)]  # rows by the tokens that still fit
    for index in sorted(range(len(pieces)), key=lambda index: -len(pieces[index])):
        length = len(pieces[index])
        room = next((room for room in range(length, sequence_length) if with_room[room]), sequence_length)
        if room == sequence_length:
            members.append([])
            with_room[room].append(len(members) - 1)
        row = with_room[room].pop()
        members[row].append(index)
        with_room[room - length].append(row)
    return np.stack([_row([(pieces[index], labels[index]) for index in row], sequence_length) for row in members])


def _row(pieces: Sequence[tuple[np.ndarray, np.ndarray]], sequence_length: int) -> np.ndarray:
    """Ids and labels of one row, (2, sequence_length). The room left is padded with a token it has: any will do."""
    ids, labels = np.full(sequence_length, pieces[0][0][0]), np.full(sequence_length, IGNORED)
    start = 0
    for piece, wanted in pieces:
        ids[start : start + len(piece)] = piece
        labels[start + 1 : start + len(piece)] = wanted[1:]
        start += len(piece)
    return np.stack([ids, labels])
