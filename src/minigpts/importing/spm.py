"""Reads a SentencePiece BPE model (Llama 2's ``tokenizer.model``) into a tokenizer of ``tokenizers`` that gives the same pieces.

transformers 5.23 converts such a file too, but ranks merges by id where SentencePiece ranks them by score, which splits runs
of spaces elsewhere, and for families other than Llama it leaves out the space in front of a text. Layout of the file:
https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from minigpts.errors import UserError, blaming

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PIECES, TRAINER, NORMALIZER = 1, 2, 3  # fields of ModelProto
MODEL_TYPE, BOS_ID, EOS_ID = 3, 41, 42  # of TrainerSpec
CHARSMAP, ADD_DUMMY_PREFIX, REMOVE_EXTRA_WHITESPACES, ESCAPE_WHITESPACES = 2, 3, 4, 5  # of NormalizerSpec
BPE = 2  # a TrainerSpec.ModelType
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # SentencePiece.Type
SPACE = "▁"


class Piece(NamedTuple):
    """One token of the model; its id is its place."""

    text: str
    score: float  # the pair whose product has the highest is merged first, the leftmost of equal ones
    type: int


def read(path: Path, add_bos: bool, add_eos: bool) -> Tokenizer:
    """The tokenizer of a SentencePiece file, with the model's begin and end tokens around a text where asked for.

    Raises UserError for a damaged file, and for what can't be carried over: Unigram, normalization, pieces given by hand.
    """
    with blaming(path, "not a SentencePiece model, or not a whole one; name a revision or folder that has a tokenizer.json"):
        pieces, trainer, normalizer = _parse(path)
        _check(path, pieces, trainer, normalizer)
        return _tokenizer(pieces, trainer, normalizer, add_bos, add_eos)


def _tokenizer(
    pieces: list[Piece], trainer: Mapping[int, Any], normalizer: Mapping[int, Any], add_bos: bool, add_eos: bool
) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    vocab = {piece.text: token_id for token_id, piece in enumerate(pieces)}
    unknown = next((piece.text for piece in pieces if piece.type == UNKNOWN), None)
    fallback = any(piece.type == BYTE for piece in pieces)
    tokenizer = Tokenizer(models.BPE(vocab, _merges(pieces), unk_token=unknown, fuse_unk=True, byte_fallback=fallback))
    prefix = normalizer.get(ADD_DUMMY_PREFIX, 1)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE)] * prefix + [normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *[decoders.Strip(" ", 1, 0)] * prefix]
    )
    special = [piece.text for piece in pieces if piece.type in (UNKNOWN, CONTROL)]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    # an id of -1 (which arrives as 2⁶⁴ − 1) says that there is no such token
    before = [piece.text for piece in pieces[trainer.get(BOS_ID, 1) :][:1] if add_bos]
    behind = [piece.text for piece in pieces[trainer.get(EOS_ID, 2) :][:1] if add_eos]
    tokenizer.post_processor = _around(before, behind, vocab)
    return tokenizer


def _around(before: list[str], behind: list[str], vocab: Mapping[str, int]) -> Any:
    from tokenizers.processors import TemplateProcessing

    single, second = ([*before, f"${part}", *behind] for part in "AB")
    pair = [*single, *(f"{token}:1" for token in second)]
    return TemplateProcessing(single=single, pair=pair, special_tokens=[(token, vocab[token]) for token in {*before, *behind}])


def _merges(pieces: list[Piece]) -> list[tuple[str, str]]:
    """Every split of a piece into two others, in the order in which SentencePiece would merge them.

    Runs of spaces have equal scores and grow from the left as long as they can: longer products come first.
    """
    scores = {piece.text: piece.score for piece in pieces if piece.type == NORMAL}
    splits = ((text[:cut], text[cut:]) for text in scores for cut in range(1, len(text)))
    merges = [(left, right) for left, right in splits if left in scores and right in scores]
    return sorted(merges, key=lambda merge: (-scores["".join(merge)], -len("".join(merge)), -len(merge[0])))


def _check(path: Path, pieces: list[Piece], trainer: Mapping[int, Any], normalizer: Mapping[int, Any]) -> None:
    obstacles = {
        "its pieces are not BPE's": trainer.get(MODEL_TYPE, 1) != BPE,
        "it normalizes text": normalizer.get(CHARSMAP) or normalizer.get(REMOVE_EXTRA_WHITESPACES, 1),
        "it keeps spaces as they are": not normalizer.get(ESCAPE_WHITESPACES, 1),
        "it has pieces given by hand": any(piece.type == USER_DEFINED for piece in pieces),
    }
    for obstacle, there in obstacles.items():
        if there:
            raise UserError(f"{path}: {obstacle}, which isn't supported; name a revision or folder that has a tokenizer.json")


def _parse(path: Path) -> tuple[list[Piece], dict[int, Any], dict[int, Any]]:
    """The pieces, and the fields of the trainer's and the normalizer's settings by number."""
    fields = list(_fields(path.read_bytes()))
    pieces = [_piece(value) for number, value in fields if number == PIECES]
    messages = {number: dict(_fields(value)) for number, value in fields if number in (TRAINER, NORMALIZER)}
    return pieces, messages[TRAINER], messages[NORMALIZER]


def _piece(message: bytes) -> Piece:
    fields = dict(_fields(message))
    (score,) = struct.unpack("<f", fields.get(2, bytes(4)))
    return Piece(fields[1].decode(), score, fields.get(3, NORMAL))


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers and values of a protobuf message's fields: a varint as an int, anything else as its bytes."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        value: int | bytes
        if key & 7 == 0:
            value, position = _varint(message, position)
        else:
            length, position = _varint(message, position) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], position)
            if position + length > len(message):
                raise ValueError("the message ends early")
            value, position = message[position : position + length], position + length
        yield key >> 3, value


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """A number of seven bits a byte, lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte, position = message[position], position + 1
        value, shift = value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, position
