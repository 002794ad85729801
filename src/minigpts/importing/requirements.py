"""What later stages ask of a model, asked as it is imported: they run many minutes later, and can't name the user's own file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from minigpts.errors import UserError, blaming, named
from minigpts.model import checkpoint, packing
from minigpts.model.chat_template import ChatTemplate
from minigpts.model.families import spec_for
from minigpts.vocabulary import counts, dialect, keep, trim

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import GenerationConfig, PreTrainedConfig

MIN_POSITIONS = 2  # of the shortest sequence that predicts anything
SHORT = 5  # tokens of the trial sequence: more than one, and few


@dataclass(frozen=True)
class Origins:
    """The user's own file for each part of a model, for messages."""

    config: str
    generation_config: str
    tokenizer: str
    chat_template: str


def require_usable(
    config: PreTrainedConfig,
    generation_config: GenerationConfig,
    tokenizer: Tokenizer,
    special_tokens: Mapping[str, str],
    chat_template: str | None,
    origins: Origins,
) -> None:
    """Raise a UserError, naming the user's own file, for whatever a later stage would refuse about the model.

    The tokenizer can be trimmed exactly, all of its tokens have an embedding row, and its trimmed form decodes as it does. All
    ids in the configs and in the tokenizer are tokens. The chat template renders. There is a token to end documents with. The
    model that the config describes can be computed.
    """
    definition = json.loads(tokenizer.to_str())
    dialect.require_exact(definition, origins.tokenizer)
    _require_rows(config, tokenizer, origins)
    tokens = counts.tokens_of(tokenizer)
    for token_id in sorted(trim.ids_of(definition)):
        if token_id >= len(tokens) or tokens[token_id] is None:
            raise UserError(f"{origins.tokenizer}: names the token id {token_id}, which is none of its {len(tokens)} tokens")
    special = _special_ids(config.to_dict(), tokens, origins.config)
    special |= _special_ids(generation_config.to_dict(), tokens, origins.generation_config)
    if chat_template is not None:
        special |= keep.written_ids(ChatTemplate(origins.chat_template, chat_template, special_tokens), tokenizer)
    _require_trimmable(definition, tokenizer, special, origins)
    with named("config.json", origins.config):
        packing.boundaries(tokenizer, config)
    _require_forward(config, origins)


def _require_rows(config: PreTrainedConfig, tokenizer: Tokenizer, origins: Origins) -> None:
    largest = counts.num_ids(tokenizer) - 1
    if largest >= config.vocab_size:
        raise UserError(
            f"{origins.tokenizer}: has the token id {largest}, but vocab_size in {origins.config} is {config.vocab_size};"
            " they belong to different models"
        )


def _special_ids(settings: Mapping[str, Any], tokens: list[str | None], where: str) -> set[int]:
    """Ids that a config needs. Raises UserError for ids that can't be renumbered, too."""
    needed = trim.needed_ids(settings, tokens, where)
    with blaming(where, "its token ids can't be renumbered; ids are whole numbers, in lists where the field holds several"):
        trim.rename_settings(settings, range(len(tokens)))
    return needed


def _require_trimmable(definition: Mapping[str, Any], tokenizer: Tokenizer, needed: set[int], origins: Origins) -> None:
    """Trim the tokenizer as far as it goes, and compare."""
    from tokenizers import Tokenizer

    kept = list(keep.closure(definition, (), needed, ()))
    with blaming(origins.tokenizer, "the tokenizers library fails on it; choose a model with another tokenizer"):
        child = Tokenizer.from_str(json.dumps(trim.trim(definition, kept)))
        child.no_truncation()
        child.no_padding()
        trim.require_same_text(tokenizer, child, kept, origins.tokenizer)


def _require_forward(config: PreTrainedConfig, origins: Origins) -> None:
    """Build the model and send a short sequence through it, on the meta device: shapes are computed, and no numbers."""
    import torch

    from minigpts.model.forward import attention_mask

    spec = spec_for(config.model_type)
    dtype = torch.float32 if spec.experts is None else torch.bfloat16  # the only one in which experts have shapes without numbers
    with blaming(origins.config, "no model can be built of it"):
        model = checkpoint.empty_model(config, dtype).to("meta")
    if not config.max_position_embeddings >= MIN_POSITIONS:
        raise UserError(f"{origins.config}: max_position_embeddings is {config.max_position_embeddings}, must be ≥ {MIN_POSITIONS}")
    length = min(SHORT, config.max_position_embeddings)
    visible = torch.from_numpy(np.tri(length, dtype=bool)[None, None]).to("meta")
    ids = torch.zeros(1, length, dtype=torch.long, device="meta")
    mask = attention_mask(model, visible, ids)  # as all stages give one
    with blaming(origins.config, "the model that it describes can't be computed"), torch.inference_mode():
        model(input_ids=ids, position_ids=ids, attention_mask=mask, use_cache=False)
