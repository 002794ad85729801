"""Reads a checkpoint folder as transformers, or another tool, left it: sharded or not, tokenizer in any form that can be fast."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpts import artifacts, checkpoint
from minigpts.architectures.registry import SPECS, spec_for
from minigpts.errors import UserError
from minigpts.sources.imported import ImportedModel

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
RESAVE = "load it once where you trust it, save_pretrained it elsewhere, and name that folder"


def read(folder: Path, dtype: torch.dtype) -> ImportedModel:
    """Read a checkpoint folder, its weights converted to ``dtype``. No code from the folder runs, and nothing is unpickled.

    Raises UserError for what can't be read that way: a model_type that isn't supported, pickled or quantized weights,
    missing or truncated shards, a tokenizer that has no fast form.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; model.path must be a checkpoint folder")
    config = _config(folder, dtype)
    tokenizer = _stock_tokenizer(folder)
    template = tokenizer.chat_template
    return ImportedModel(
        config=config,
        weights=_weights(folder, config),
        generation_config=_generation_config(folder, config),
        tokenizer=_fast_tokenizer(folder, tokenizer),
        special_tokens=dict(tokenizer.special_tokens_map),
        chat_template=template.get("default") if isinstance(template, dict) else template,
    )


def _config(folder: Path, dtype: torch.dtype) -> PreTrainedConfig:
    """The folder's config in ``dtype``, without what points at code beside it."""
    from huggingface_hub.errors import StrictDataclassError

    raw = _read_json(folder / "config.json")
    if "auto_map" in raw and raw.get("model_type") not in SPECS:
        raise UserError(f"{folder / 'config.json'}: the model needs code of its own (auto_map), which is never run here")
    if "quantization_config" in raw:
        raise UserError(f"{folder / 'config.json'}: the weights are quantized; name a folder with full-precision ones")
    try:
        config = checkpoint.load_config(folder)
    except StrictDataclassError as error:
        raise UserError(f"{folder / 'config.json'}: {str(error).splitlines()[-1].strip()}") from None
    if hasattr(config, "auto_map"):
        del config.auto_map
    config.dtype = dtype
    return config


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"{path}: no such file; is {path.parent} a checkpoint folder?")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: must be a JSON object")
    return values


def _shards(folder: Path) -> list[Path]:
    """The safetensors files that hold the weights: those of the index, or the only one."""
    index = folder / f"{checkpoint.WEIGHTS}.index.json"
    shards = [folder / checkpoint.WEIGHTS]
    if index.exists():
        names = _read_json(index).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise UserError(f"{index}: has no 'weight_map' from tensors to files")
        shards = [folder / name for name in sorted(set(names.values()))]
    for shard in shards:
        if not shard.exists() and any(path for pattern in PICKLED for path in folder.glob(pattern)):
            raise UserError(f"{folder}: its weights are pickled, and unpickling can run any code; {RESAVE}")
        if not shard.exists():
            raise UserError(f"{shard}: no such file; the folder isn't a whole checkpoint")
    return shards


def _weights(folder: Path, config: PreTrainedConfig) -> dict[str, torch.Tensor]:
    """Every tensor in ``config.dtype``, one shard in memory beside the result; a tied lm_head is left out."""
    weights = {}
    for shard in _shards(folder):
        for name, tensor in artifacts.read_tensors(shard).items():
            if name.endswith("rotary_emb.inv_freq"):
                continue  # a buffer that transformers stored before 4.32 and computes now
            if not tensor.is_floating_point():
                kind = str(tensor.dtype).removeprefix("torch.")
                raise UserError(f"{shard}: {name} is {kind}, so the weights are quantized; name a folder with full-precision ones")
            weights[name] = tensor.to(config.dtype)
    if config.tie_word_embeddings:
        _untie(folder, weights, config)
    return weights


def _untie(folder: Path, weights: dict[str, torch.Tensor], config: PreTrainedConfig) -> None:
    """Store a tied matrix once, under the embedding's name, whichever name or names the folder has it under."""
    import torch

    spec = spec_for(config.model_type)
    embedding, head = f"{spec.embedding}.weight", weights.pop(f"{spec.lm_head}.weight", None)
    if head is not None and not torch.equal(weights.setdefault(embedding, head), head):
        raise UserError(f"{folder}: config.json says tie_word_embeddings, but {spec.lm_head} differs from {embedding}")


def _generation_config(folder: Path, config: PreTrainedConfig) -> GenerationConfig:
    from transformers import GenerationConfig

    path = folder / "generation_config.json"
    if not path.exists():
        return GenerationConfig.from_model_config(config)
    _read_json(path)  # for its error messages: transformers' own names no line
    return GenerationConfig.from_pretrained(folder)


def _stock_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    try:
        tokenizer = checkpoint.load_tokenizer(folder)
    except (OSError, ValueError, ImportError) as error:
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        need = "" if (folder / "tokenizer.json").exists() else "no tokenizer.json, and "
        raise UserError(f"{folder}: {need}transformers can't load its tokenizer ({said})") from None
    if not tokenizer.is_fast:
        raise UserError(f"{folder}: its tokenizer has no fast form; the pipeline needs a tokenizer.json")
    return tokenizer


def _fast_tokenizer(folder: Path, stock: PreTrainedTokenizerBase) -> Tokenizer:
    """``tokenizer.json`` as it stands, since some of transformers' classes replace its pre-tokenizer; else what they made."""
    if not (folder / "tokenizer.json").exists():
        return stock.backend_tokenizer
    fast = checkpoint.load_fast_tokenizer(folder)
    for token, token_id in stock.get_added_vocab().items():
        if fast.token_to_id(token) != token_id:
            raise UserError(f"{folder}: tokenizer.json lacks the token {token!r} that tokenizer_config.json adds; save it anew")
    return fast
