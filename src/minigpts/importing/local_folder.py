"""Reads a checkpoint folder as transformers, or another tool, left it: sharded or not, tokenizer in any form that can be fast."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpts.errors import UserError
from minigpts.importing import spm
from minigpts.importing.imported import ImportedModel, named
from minigpts.model import checkpoint
from minigpts.model.families import SPECS, spec_for
from minigpts.model.weights import WEIGHTS

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

INDEX = f"{WEIGHTS}.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
FULL_PRECISION = ("F64", "F32", "F16", "BF16")
RESAVE = "load it once where you trust it, save_pretrained it elsewhere, and name that folder"


def read(folder: Path, dtype: torch.dtype) -> ImportedModel:
    """Read a checkpoint folder, its weights converted to ``dtype``. No code from the folder runs, and nothing is unpickled.

    Raises UserError for what can't be read that way: a model_type that isn't supported, pickled or quantized weights,
    missing or truncated shards, tensors that aren't exactly the config's, a tokenizer that has no fast form.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; model.path must be a checkpoint folder")
    check_config(folder)
    config = _config(folder, dtype)
    fast, stock = _tokenizer(folder)
    template = stock.chat_template
    return ImportedModel(
        config=config,
        weights=checkpoint.weights_of(_model(folder, config), dtype),
        generation_config=_generation_config(folder, config),
        tokenizer=fast,
        special_tokens=dict(stock.special_tokens_map),
        chat_template=template.get("default") if isinstance(template, dict) else template,
    )


def check_config(folder: Path) -> None:
    """Raise a UserError when ``config.json`` alone tells that the model can't be read: before its weights are fetched."""
    path = folder / "config.json"
    raw = _read_json(path)
    if "auto_map" in raw and str(raw.get("model_type")) not in SPECS:
        raise UserError(
            f"{path}: the model needs code of its own (auto_map), which is never run; see docs/adding_an_architecture.md"
        )
    if not isinstance(raw.get("model_type"), str):
        raise UserError(f"{path}: must be a JSON object with a 'model_type'")
    try:
        spec_for(raw["model_type"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if raw.get("quantization_config") is not None:
        raise UserError(f"{path}: the weights are quantized; name a model with full-precision ones")


def _config(folder: Path, dtype: torch.dtype) -> PreTrainedConfig:
    """The folder's config in ``dtype``, without what points at code beside it; a model can be built of it."""
    try:
        config = checkpoint.load_config(folder)
        if hasattr(config, "auto_map"):
            del config.auto_map
        config.dtype = dtype
        checkpoint.empty_model(config, dtype)
    except UserError:
        raise
    except Exception as error:  # each class has its own ways to refuse values
        said = next(iter(reversed(str(error).strip().splitlines())), "").strip()
        raise UserError(f"{folder / 'config.json'}: no model can be built of it ({type(error).__name__}: {said})") from None
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


def weight_files(folder: Path) -> list[str]:
    """Names of the safetensors files that hold the weights: the only one, or those of the index beside it."""
    index = folder / INDEX
    if (folder / WEIGHTS).exists() or not index.exists():
        return [WEIGHTS]
    names = _read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise UserError(f"{index}: has no 'weight_map' from tensors to files")
    for name in names.values():
        if not isinstance(name, str) or name != Path(name).name or not name.endswith(".safetensors"):
            raise UserError(f"{index}: names {name!r}, which is no safetensors file beside it")
    return sorted(set(names.values()))


def _check_weights(folder: Path) -> None:
    """Raise a UserError for a shard that is missing, truncated or quantized, by the files' headers alone."""
    from safetensors import SafetensorError, safe_open

    shards = [folder / name for name in weight_files(folder)]
    for shard in shards:
        if not shard.exists() and any(path for suffix in PICKLED for path in folder.glob(f"*{suffix}")):
            raise UserError(f"{folder}: its weights are pickled, and unpickling can run any code; {RESAVE}")
        if not shard.exists():
            raise UserError(f"{shard}: no such file; the folder isn't a whole checkpoint")
        try:
            with safe_open(shard, framework="pt") as file:
                kinds = {name: file.get_slice(name).get_dtype() for name in file.keys() if name.endswith(".weight")}  # noqa: SIM118
        except SafetensorError as error:
            raise UserError(f"{shard}: not a readable safetensors file ({error}); fetch or make it again") from None
        for name, kind in kinds.items():
            if kind not in FULL_PRECISION:
                raise UserError(f"{shard}: {name} is {kind}, so the weights are quantized; name a model with full-precision ones")


def _model(folder: Path, config: PreTrainedConfig) -> PreTrainedModel:
    """The model in ``config.dtype``, every tensor from the folder.

    Names that checkpoints had over the years (GPT-2's without a prefix, GPT-NeoX's ``embed_out``, stored masks) are stock
    transformers' to know; what it would leave out or make up is an error here.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    _check_weights(folder)
    if getattr(config, "intermediate_sizes", None) is not None:  # ours: no stock class has such widths
        if not (folder / WEIGHTS).exists():
            raise UserError(f"{folder}: widths that differ between layers are read from {WEIGHTS} alone; save it in one")
        return checkpoint.load_model(folder, config.dtype)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its tables of what doesn't fit: the first such tensor is named below
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=config.dtype,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # so that they are listed
            output_loading_info=True,
        )
    finally:
        logging.set_verbosity(verbosity)
    _check_loaded(folder, model, info)
    return model


def _check_loaded(folder: Path, model: PreTrainedModel, info: dict[str, Any]) -> None:
    """Raise a UserError naming the first tensor that was missing, unexpected, of another shape, or tied but different.

    A ``masked_bias`` is no weight: it is the constant that old attentions put behind their mask.
    """
    problems = [f"{name} is {tuple(found)}, expected {tuple(wanted)}" for name, found, wanted in sorted(info["mismatched_keys"])]
    problems += [f"missing {name}" for name in sorted(info["missing_keys"])]
    problems += [f"unexpected {name}" for name in sorted(info["unexpected_keys"]) if not name.endswith(".masked_bias")]
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise UserError(f"{folder}: the weights do not match config.json: {problems[0]}{more}")
    spec = spec_for(model.config.model_type)
    embedding, head = model.get_submodule(spec.embedding).weight, model.get_submodule(spec.lm_head).weight
    if model.config.tie_word_embeddings and head is not embedding:
        raise UserError(f"{folder}: config.json says tie_word_embeddings, but {spec.lm_head} differs from {spec.embedding}")


def _generation_config(folder: Path, config: PreTrainedConfig) -> GenerationConfig:
    from transformers import GenerationConfig

    path = folder / "generation_config.json"
    if not path.exists():
        return GenerationConfig.from_model_config(config)
    _read_json(path)  # for its error messages: transformers' own names no line
    return GenerationConfig.from_pretrained(folder)


def _tokenizer(folder: Path) -> tuple[Tokenizer, PreTrainedTokenizerBase]:
    """The tokenizer itself, and stock transformers' around it, which knows the special tokens and the chat template.

    ``tokenizer.json`` decides as it stands, since some of transformers' classes replace its pre-tokenizer; else SentencePiece's
    ``tokenizer.model``; else what transformers makes of ``vocab.json`` and ``merges.txt``.
    """
    if (folder / "tokenizer.json").exists() or not (folder / "tokenizer.model").exists():
        stock = _stock_tokenizer(folder)
        return _fast_tokenizer(folder, stock), stock
    with tempfile.TemporaryDirectory(prefix="minigpts-tokenizer-") as scratch, named(Path(scratch), folder):
        for path in (*folder.glob("*.json"), *folder.glob("*.jinja")):
            shutil.copyfile(path, Path(scratch) / path.name)
        _from_sentencepiece(folder).save(f"{scratch}/tokenizer.json")
        stock = _stock_tokenizer(Path(scratch))
        return _fast_tokenizer(Path(scratch), stock), stock


def _from_sentencepiece(folder: Path) -> Tokenizer:
    settings = _read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
    # what transformers' classes around SentencePiece take where the settings don't say
    return spm.read(folder / "tokenizer.model", settings.get("add_bos_token", True), settings.get("add_eos_token", False))


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
