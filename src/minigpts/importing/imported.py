"""A model as any source reads it, and the one way it becomes a checkpoint: written to a temporary folder and proved there."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from minigpts import artifacts
from minigpts.errors import UserError
from minigpts.model import checkpoint
from minigpts.model.transformers4 import tokenizer_settings
from minigpts.model.weights import StoredWeights

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import GenerationConfig, PreTrainedConfig

# Where pre-tokenizers part ways: digits, whitespace before digits and at line ends, contractions, code, CJK, emoji.
PROBES = (
    "In 1999, 12345 of 3.14e-10 patients' hearts weren't OK.",
    "a\n\n1. first\n  2\n\n\n    20\tx  ",
    "foo  1234   bar 5",
    "def f(x):\n    return {'a': x**2}  # it's O(1)\r\n",
    "心臓の異常 123 例。ナイーブ½ ²",
    "naïve façade 🫀👩🏽‍⚕️ ok?!…",
)


@dataclass(frozen=True)
class ImportedModel:
    """What a source hands over. Names of the weights are stock transformers', and every weight has ``config.dtype``."""

    config: PreTrainedConfig
    weights: Mapping[str, torch.Tensor]  # a tied lm_head has no entry
    generation_config: GenerationConfig
    tokenizer: Tokenizer
    special_tokens: Mapping[str, str]  # role, as tokenizer_config.json names it ("eos_token"), to token
    chat_template: str | None


@contextmanager
def named(path: Path, origin: object) -> Iterator[None]:
    """Let a UserError about ``path``, where something lies for now, speak of ``origin``, what the user knows it by."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(str(path), str(origin))) from None


def write(model: ImportedModel, origin: object, destination: Path) -> None:
    """Write the checkpoint folder ``destination``, unless it doesn't verify: then nothing is left behind.

    ``origin`` is what error messages name. Raises UserError when names or shapes of the weights aren't the config's, and as
    :func:`verify`.
    """
    model = _without_unembedded_tokens(model)
    _name_special_ids(model)
    with tempfile.TemporaryDirectory(prefix="minigpts-import-") as companions, named(destination, origin):
        _write_companions(model, Path(companions))
        with checkpoint.saving(destination, model.config, model.weights.items(), Path(companions)) as folder, named(folder, origin):
            verify(folder)


def _without_unembedded_tokens(model: ImportedModel) -> ImportedModel:
    """Drop added tokens that have no embedding row: text models of families that see have a token for images (Gemma 3)."""
    from tokenizers import Tokenizer

    definition = json.loads(model.tokenizer.to_str())
    embedded = [token for token in definition["added_tokens"] if token["id"] < model.config.vocab_size]
    if len(embedded) == len(definition["added_tokens"]):
        return model
    tokenizer = Tokenizer.from_str(json.dumps({**definition, "added_tokens": embedded}))
    special = {role: token for role, token in model.special_tokens.items() if tokenizer.token_to_id(token) is not None}
    return replace(model, tokenizer=tokenizer, special_tokens=special)


def _name_special_ids(model: ImportedModel) -> None:
    """Fill in the ids that the configs leave open where the tokenizer has the token: Phi-1.5's name no end of text."""
    for role in ("bos_token", "eos_token", "pad_token"):
        if role in model.special_tokens:
            for settings in (model.config, model.generation_config):
                if getattr(settings, f"{role}_id", None) is None:
                    setattr(settings, f"{role}_id", model.tokenizer.token_to_id(model.special_tokens[role]))


def _write_companions(model: ImportedModel, folder: Path) -> None:
    model.generation_config.save_pretrained(folder)
    model.tokenizer.save(str(folder / "tokenizer.json"))
    settings = tokenizer_settings(model.config.max_position_embeddings, model.special_tokens)
    artifacts.write_json(folder / "tokenizer_config.json", settings)
    if model.chat_template is not None:
        (folder / "chat_template.jinja").write_text(model.chat_template, encoding="utf-8", newline="\n")


def verify(directory: Path) -> None:
    """Prove that a checkpoint folder, whose names and shapes its writer has checked, is sound, or say in a UserError what isn't.

    Every weight is finite; every token has an embedding row; and stock ``AutoTokenizer`` tokenizes as ``tokenizer.json`` does.
    """
    for name, tensor in StoredWeights(directory).items():
        if not (tensor.amin() * 0 + tensor.amax() * 0).isfinite():  # NaN carries through both; many times faster than all of them
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(
                f"{directory}: {name} has NaN or infinite values in {kind}; the weights are damaged or need a wider dtype"
            )
    vocab_size = checkpoint.load_config(directory).vocab_size
    fast, stock = checkpoint.load_fast_tokenizer(directory), checkpoint.load_tokenizer(directory)
    largest = max(fast.get_vocab(with_added_tokens=True).values())
    if largest >= vocab_size:
        raise UserError(f"{directory}: tokenizer.json has token id {largest}, config.json's vocab_size is {vocab_size}")
    for probe in PROBES:
        if stock(probe).input_ids != fast.encode(probe).ids:
            raise UserError(f"{directory}: AutoTokenizer and tokenizer.json disagree on {probe!r}; the tokenizer isn't supported")
