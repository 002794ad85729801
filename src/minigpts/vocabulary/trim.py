"""Cuts a BPE tokenizer down to the ids that stay, and renumbers every place that names an id.

A merge stays when both its parts and its product stay, and the merges keep their order, so the rules of the trimmed
tokenizer are a subsequence of its parent's. New ids follow the order of the old ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpts import artifacts
from minigpts.errors import UserError
from minigpts.model import checkpoint
from minigpts.vocabulary.dialect import parts_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Fields of config.json and generation_config.json whose tokens have to stay: an id, a list of ids, or lists of lists.
NEEDED_IDS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "force_words_ids",
)
# Fields that forbid or discourage tokens or sequences: one that holds a dropped token can't occur, and is left out.
UNWANTED_IDS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids")

# Digits, runs of spaces, line ends, scripts, emoji and control characters: where a wrong pre-tokenizer or decoder shows.
PROBES = (
    "a\n\n1. x",
    "foo  1234",
    "\n    20\t",
    " Ünïcödé naïve",
    "漢字 かな 한국어",
    "🙂👩‍⚕️ \x00\x7f\u200b",
    "don't STOP.",
    "▁<0x41> ",
)


def ids_of(definition: Mapping[str, Any]) -> set[int]:
    """Every id that tokenizer.json names outside its vocabulary: added tokens, post-processor, padding."""
    ids: set[int] = set()

    def note(token_id: int) -> int:
        ids.add(token_id)
        return token_id

    _rename_definition(definition, note)
    return ids


def trim(definition: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """The tokenizer.json ``definition`` (as a dict, left as it is) with the token ids ``kept`` alone, ascending."""
    new_ids = _new_ids(kept)
    model = definition["model"]
    ordered = sorted(model["vocab"].items(), key=lambda item: item[1])
    vocab = {token: new_ids[old] for token, old in ordered if old in new_ids}
    merges = []
    for merge in model["merges"]:
        left, right = parts_of(merge)
        if left in vocab and right in vocab and left + right in vocab:
            merges.append(merge)
    trimmed = _rename_definition(definition, new_ids.__getitem__)
    return {**trimmed, "model": {**model, "vocab": vocab, "merges": merges}}


def _new_ids(kept: Sequence[int]) -> dict[int, int]:
    return {old: new for new, old in enumerate(kept)}


def _rename_definition(definition: Mapping[str, Any], rename: Callable[[int], int]) -> dict[str, Any]:
    """``definition`` with every id outside the vocabulary renamed. The one list of the places where they stand."""
    renamed = dict(definition)
    renamed["added_tokens"] = [{**token, "id": rename(token["id"])} for token in definition.get("added_tokens") or []]
    if definition.get("post_processor"):
        renamed["post_processor"] = _rename_post_processor(definition["post_processor"], rename)
    if definition.get("padding"):
        renamed["padding"] = {**definition["padding"], "pad_id": rename(definition["padding"]["pad_id"])}
    return renamed


def _rename_post_processor(processor: Mapping[str, Any], rename: Callable[[int], int]) -> dict[str, Any]:
    renamed = dict(processor)
    if "processors" in processor:  # Sequence
        renamed["processors"] = [_rename_post_processor(part, rename) for part in processor["processors"]]
    if "special_tokens" in processor:  # TemplateProcessing
        renamed["special_tokens"] = {
            name: {**token, "ids": [rename(old) for old in token["ids"]]} for name, token in processor["special_tokens"].items()
        }
    for end in ("sep", "cls"):  # BertProcessing and RobertaProcessing
        if end in processor:
            token, old = processor[end]
            renamed[end] = [token, rename(old)]
    return renamed


def needed_ids(settings: Mapping[str, Any], tokens: Sequence[str | None], where: str) -> set[int]:
    """Ids that a config or generation config can't do without. ``tokens`` are the tokenizer's, by id.

    Raises UserError naming the field, and the file as ``where``, for an id that is none of the tokenizer's.
    """
    needed: set[int] = set()
    for field in NEEDED_IDS:
        for token_id in _flatten(settings.get(field)):
            known = type(token_id) is int and 0 <= token_id < len(tokens) and tokens[token_id] is not None
            if not known:
                raise UserError(
                    f"{where}: {field} {token_id!r} is none of the tokenizer's {len(tokens)} tokens;"
                    " set it to one of them or to null"
                )
            needed.add(token_id)
    return needed


def without_minus_one(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A config or generation config with None, or one id less, where a token id is −1: older tools wrote that for none."""
    meant: dict[str, Any] = {}
    for field in {*NEEDED_IDS, *UNWANTED_IDS} & settings.keys():
        value = settings[field]
        if isinstance(value, list):
            meant[field] = [token_id for token_id in value if token_id != -1] or None
        elif value == -1:
            meant[field] = None
    return {**settings, **meant}


def rename_settings(settings: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """The fields of a config or generation config that hold token ids, renumbered."""
    new_ids = _new_ids(kept)
    renamed: dict[str, Any] = {}
    for field in NEEDED_IDS:
        if settings.get(field) is not None:
            renamed[field] = _rename(settings[field], new_ids)
    for field in UNWANTED_IDS:
        if settings.get(field) is not None:
            staying = [entry for entry in settings[field] if new_ids.keys() >= set(_flatten(entry))]
            renamed[field] = _rename(staying, new_ids) or None
    if settings.get("sequence_bias") is not None:  # a list of [ids, bias]
        biases = [[_rename(ids, new_ids), bias] for ids, bias in settings["sequence_bias"] if new_ids.keys() >= set(ids)]
        renamed["sequence_bias"] = biases or None
    return renamed


def _flatten(value: Any) -> Iterator[int]:
    if isinstance(value, list):
        for item in value:
            yield from _flatten(item)
    elif value is not None:
        yield value


def _rename(value: Any, new_ids: Mapping[int, int]) -> Any:
    return [_rename(item, new_ids) for item in value] if isinstance(value, list) else new_ids[value]


def trim_files(directory: Path, definition: Mapping[str, Any], parent: Tokenizer, kept: Sequence[int]) -> None:
    """Put the trimmed ``tokenizer.json`` into a folder, and renumber its tokenizer and generation config in place.

    ``definition`` is the parent's tokenizer.json as a dict, ``parent`` the same one loaded, without truncation or padding.
    Raises UserError when the trimmed tokenizer numbers or decodes otherwise than planned, or when stock
    ``AutoTokenizer`` reads the folder otherwise than the ``tokenizers`` library does.
    """
    from tokenizers import Tokenizer

    child = Tokenizer.from_str(json.dumps(trim(definition, kept)))
    (directory / "tokenizer.json").write_text(child.to_str(pretty=True) + "\n", encoding="utf-8")  # far faster than json's indent
    _edit_json(directory / "generation_config.json", lambda settings: {**settings, **rename_settings(settings, kept)})
    _edit_json(directory / "tokenizer_config.json", lambda settings: _rename_legacy_keys(settings, kept))
    child.no_truncation()
    child.no_padding()
    require_same_text(parent, child, kept)
    _require_stock(directory, child, len(kept))


def _edit_json(path: Path, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Order and precision stay the file's own, unlike those of the metrics."""
    if path.exists():
        edited = edit(artifacts.read_json(path))
        path.write_text(json.dumps(edited, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _rename_legacy_keys(settings: dict[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """transformers before 5 repeated the added tokens in tokenizer_config.json, by id as a string."""
    new_ids = _new_ids(kept)
    if "added_tokens_decoder" not in settings:
        return settings
    return {
        **settings,
        "added_tokens_decoder": {str(new_ids[int(old)]): token for old, token in settings["added_tokens_decoder"].items()},
    }


def require_same_text(parent: Tokenizer, child: Tokenizer, kept: Sequence[int], where: str = "tokenizer.json") -> None:
    """Raise a UserError, naming the file ``where``, unless ``child`` has the tokens ``kept`` and decodes as ``parent`` does."""
    planned = [parent.id_to_token(old) for old in kept]
    if [child.id_to_token(new) for new in range(len(kept))] != planned:
        raise UserError(f"{where}: loads with other tokens or ids than it states; save it anew with the tokenizers library")
    for probe in PROBES:
        if child.decode(child.encode(probe).ids) != parent.decode(parent.encode(probe).ids):
            raise UserError(f"{where}: once trimmed, it decodes {probe!r} differently; choose a model with another tokenizer")


def _require_stock(directory: Path, child: Tokenizer, size: int) -> None:
    stock = checkpoint.load_tokenizer(directory)
    if len(stock) != size:
        raise UserError(
            f"tokenizer_config.json: makes AutoTokenizer load {len(stock)} tokens where tokenizer.json has {size}; name only those"
        )
    for probe in PROBES:
        if child.encode(probe).ids != stock(probe)["input_ids"]:
            raise UserError(
                f"tokenizer_config.json: tokenizer_class makes AutoTokenizer split {probe!r} differently;"
                " set PreTrainedTokenizerFast"
            )
