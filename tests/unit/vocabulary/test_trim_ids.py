"""Every place outside the vocabulary that names a token id."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from minigpts.errors import UserError
from minigpts.model import checkpoint
from minigpts.vocabulary.keep import tokens_to_keep
from minigpts.vocabulary.trim import ids_of, needed_ids, rename_settings, trim, trim_files
from tests import tiny
from tests.unit.vocabulary.builders import KINDS, byte_level, sentencepiece_style

KEPT = [0, 2, 5, 6, 9]  # 0, 1, 2, 3, 4 from now on
TOKENS = [*"abcdefgh", None, "i"]  # by id; 8 is a gap


def test_config_fields_are_renamed_whatever_their_shape() -> None:
    settings = {
        "bos_token_id": 0,  # a valid id, not an absent one
        "eos_token_id": [2, 9],
        "pad_token_id": None,
        "decoder_start_token_id": 5,
        "forced_eos_token_id": 6,
        "force_words_ids": [[5, 6], [9]],
        "suppress_tokens": [1, 2, 3, 9],
        "begin_suppress_tokens": [4],
        "bad_words_ids": [[5, 6], [5, 7]],
        "sequence_bias": [[[2, 5], -1], [[3], 7]],
        "max_length": 9,
    }
    assert rename_settings(settings, KEPT) == {
        "bos_token_id": 0,
        "eos_token_id": [1, 4],
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 3,
        "force_words_ids": [[2, 3], [4]],
        "suppress_tokens": [1, 4],
        "begin_suppress_tokens": None,
        "bad_words_ids": [[2, 3]],
        "sequence_bias": [[[1, 2], -1]],
    }
    assert needed_ids(settings, TOKENS, "config.json") == {0, 2, 5, 6, 9}


@pytest.mark.parametrize("bad", [10, -1, [2, 12], 8])
def test_an_id_that_is_no_token_is_refused_by_name(bad: object) -> None:
    with pytest.raises(UserError, match=r"config\.json: eos_token_id (-1|8|10|12) is none of the tokenizer's 10 tokens"):
        needed_ids({"eos_token_id": bad}, TOKENS, "config.json")


def test_post_processors_and_padding_are_renamed(tmp_path: Path) -> None:
    definition = sentencepiece_style()
    template = definition["post_processor"]
    definition["post_processor"] = {
        "type": "Sequence",
        "processors": [template, {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1], "trim_offsets": True}],
    }
    definition["padding"] = {"strategy": "BatchLongest", "direction": "Right", "pad_id": 9, "pad_token": "<0x06>"}
    assert ids_of(definition) == {0, 1, 2, 9}
    trimmed = trim({**definition, "added_tokens": []}, [1, 2, 9])
    first, second = trimmed["post_processor"]["processors"]
    assert first["special_tokens"]["<s>"]["ids"] == [0] and first["single"] == template["single"]
    assert (second["cls"], second["sep"]) == (["<s>", 0], ["</s>", 1])
    assert trimmed["padding"]["pad_id"] == 2


def _folder(path: Path, definition: dict[str, Any] | None = None) -> Path:
    path.mkdir()
    tiny.write_tokenizer(path)
    if definition is not None:
        (path / "tokenizer.json").write_text(json.dumps(definition))
    return path


def _trim(folder: Path, kept: Sequence[int]) -> Tokenizer:
    definition = json.loads((folder / "tokenizer.json").read_text())
    trim_files(folder, definition, checkpoint.load_fast_tokenizer(folder), kept)
    return checkpoint.load_fast_tokenizer(folder)


LEGACY = {str(token_id): {"content": token, "special": True} for token_id, token in enumerate(tiny.SPECIAL)}


def test_files_are_trimmed_together(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "checkpoint")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    odd = {"content": checkpoint.load_fast_tokenizer(folder).id_to_token(380), "special": False}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "added_tokens_decoder": {**LEGACY, "380": odd}}))
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 380], "temperature": 0.123456789}')
    assert _trim(folder, [*range(300), 380]).get_vocab_size() == 301
    assert json.loads((folder / "tokenizer_config.json").read_text()) == {
        **settings,
        "added_tokens_decoder": {**LEGACY, "300": odd},
    }
    assert json.loads((folder / "generation_config.json").read_text()) == {"eos_token_id": [2, 300], "temperature": 0.123456789}


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_of_every_dialect_is_what_was_planned_and_the_same_each_time(kind: str, tmp_path: Path) -> None:
    definition = KINDS[kind]()
    counts = np.ones(Tokenizer.from_str(json.dumps(definition)).get_vocab_size())
    counts[len(counts) // 2 :] = 0
    kept = list(tokens_to_keep(definition, counts, 0.0, special=set(), template=set()))
    first, second = (_folder(tmp_path / name, definition) for name in ("first", "second"))
    (second / "tokenizer.json").write_text(json.dumps(definition, sort_keys=True, indent=1))
    for folder in (first, second):
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        named = {key: value for key, value in settings.items() if value not in tiny.SPECIAL}  # not every dialect has those
        (folder / "tokenizer_config.json").write_text(json.dumps(named))
        _trim(folder, kept)
    written = (first / "tokenizer.json").read_bytes()
    assert written == (second / "tokenizer.json").read_bytes()
    assert written == json.dumps(json.loads(written), indent=2, ensure_ascii=False).encode() + b"\n"
    planned = json.loads(Tokenizer.from_str(json.dumps(trim(definition, kept))).to_str())
    assert json.loads(written) == planned


def test_a_choice_that_loses_text_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="once trimmed, it decodes"):
        _trim(_folder(tmp_path / "checkpoint"), [0, 1, 2, *range(50, 300)])  # 3 to 49 are byte symbols, the digits among them


def test_a_tokenizer_class_that_rebuilds_the_pre_tokenizer_is_refused(tmp_path: Path) -> None:
    definition = byte_level()
    num_tokens = len(definition["model"]["vocab"])
    definition["model"]["vocab"]["Ġ1"] = num_tokens  # never made where digits are split off first, as this tokenizer does
    definition["model"]["merges"].append(["Ġ", "1"])
    folder = _folder(tmp_path / "checkpoint", definition)
    _trim(folder, range(num_tokens + 1))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "GPT2Tokenizer"}))
    with pytest.raises(UserError, match="PreTrainedTokenizerFast"):
        _trim(folder, range(num_tokens + 1))


def test_added_tokens_that_load_with_other_ids_than_the_file_says_are_refused(tmp_path: Path) -> None:
    definition = byte_level()
    del definition["model"]["vocab"]["Ġheart"]  # a gap, which the loader fills with the first token behind the vocabulary
    definition["model"]["merges"] = [merge for merge in definition["model"]["merges"] if "".join(merge) != "Ġheart"]
    definition["added_tokens"].append({**definition["added_tokens"][0], "id": 400, "content": "<|late|>"})
    with pytest.raises(UserError, match="other tokens or ids than it states"):
        _trim(_folder(tmp_path / "checkpoint", definition), [*range(300), 400])


def test_settings_that_add_a_token_are_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "checkpoint")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "pad_token": "<pad>"}))
    with pytest.raises(
        UserError, match=r"tokenizer_config\.json: makes AutoTokenizer load 301 tokens where tokenizer\.json has 300"
    ):
        _trim(folder, range(300))
