"""A model as any source reads it, and the one way it becomes a checkpoint: written to a temporary folder and proved there."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from minigpts import artifacts
from minigpts.errors import UserError, named, shown
from minigpts.importing.requirements import Origins, require_usable
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
class Description:
    """A model without its weights, such as every stage can use; made by :func:`describe`."""

    config: PreTrainedConfig
    generation_config: GenerationConfig
    tokenizer: Tokenizer
    special_tokens: Mapping[str, str]  # role, as tokenizer_config.json names it ("eos_token"), to token
    chat_template: str | None


@dataclass(frozen=True)
class ImportedModel:
    """What a source hands over. Names of the weights are stock transformers', and every weight has ``config.dtype``."""

    description: Description
    weights: Mapping[str, torch.Tensor]  # a tied lm_head has no entry
    unread: Sequence[str] = ()  # what else the source holds, kind by kind


def describe(
    config: PreTrainedConfig,
    generation_config: GenerationConfig,
    tokenizer: Tokenizer,
    special_tokens: Mapping[str, str],
    chat_template: str | None,
    origins: Origins,
) -> Description:
    """The model in the project's shape: no token without an embedding row, and the tokenizer's special ids in both configs.

    Raises UserError, naming the user's file by ``origins``, for a model that a later stage would refuse.
    """
    tokenizer = _without_unembedded_tokens(tokenizer, config.vocab_size)
    special_tokens = {role: token for role, token in special_tokens.items() if tokenizer.token_to_id(token) is not None}
    for role in {"bos_token", "eos_token", "pad_token"} & special_tokens.keys():  # Phi-1.5's configs name no end of text
        for settings in (config, generation_config):
            if getattr(settings, f"{role}_id", None) is None:
                setattr(settings, f"{role}_id", tokenizer.token_to_id(special_tokens[role]))
    require_usable(config, generation_config, tokenizer, special_tokens, chat_template, origins)
    return Description(config, generation_config, tokenizer, special_tokens, chat_template)


def _without_unembedded_tokens(tokenizer: Tokenizer, num_rows: int) -> Tokenizer:
    """Drop added tokens that have no embedding row: text models of families that see have a token for images (Gemma 3)."""
    from tokenizers import Tokenizer

    definition = json.loads(tokenizer.to_str())
    embedded = [token for token in definition["added_tokens"] if token["id"] < num_rows]
    if len(embedded) == len(definition["added_tokens"]):
        return tokenizer
    return Tokenizer.from_str(json.dumps({**definition, "added_tokens": embedded}))


def write(model: ImportedModel, origin: object, destination: Path) -> None:
    """Write the checkpoint folder ``destination``, unless it doesn't verify: then nothing is left behind.

    ``origin`` is what messages name. Says in one line what of the source was not read. Raises UserError when names or shapes of
    the weights aren't the config's, and as :func:`verify`.
    """
    described = model.description
    with tempfile.TemporaryDirectory(prefix="minigpts-import-") as companions, named(destination, origin):
        _write_companions(described, Path(companions))
        weights = model.weights.items()
        with checkpoint.saving(destination, described.config, weights, Path(companions)) as folder, named(folder, origin):
            verify(folder)
    if model.unread:
        print(shown(f"{origin}: not read: {'; '.join(model.unread)}"), file=sys.stderr)


def _write_companions(model: Description, folder: Path) -> None:
    model.generation_config.save_pretrained(folder)
    definition = model.tokenizer.to_str(pretty=True)  # its own save says nothing of errno where the disk is full
    (folder / "tokenizer.json").write_text(definition, encoding="utf-8", newline="\n")
    settings = tokenizer_settings(model.config.max_position_embeddings, model.special_tokens)
    artifacts.write_json(folder / "tokenizer_config.json", settings)
    if model.chat_template is not None:
        (folder / "chat_template.jinja").write_text(model.chat_template, encoding="utf-8", newline="\n")


def verify(directory: Path) -> None:
    """Prove that a checkpoint folder, whose names and shapes its writer has checked, is sound, or say in a UserError what isn't.

    Every weight is finite, and stock ``AutoTokenizer`` tokenizes as ``tokenizer.json`` does.
    """
    for name, tensor in StoredWeights(directory).items():
        if not (tensor.amin() * 0 + tensor.amax() * 0).isfinite():  # NaN carries through both; many times faster than all of them
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(
                f"{directory}: {name} has NaN or infinite values in {kind}; the weights are damaged or need a wider dtype"
            )
    fast, stock = checkpoint.load_fast_tokenizer(directory), checkpoint.load_tokenizer(directory)
    for probe in PROBES:
        if stock(probe).input_ids != fast.encode(probe).ids:
            raise UserError(f"{directory}: AutoTokenizer and tokenizer.json disagree on {probe!r}; the tokenizer isn't supported")
