"""Reads a checkpoint folder as transformers, or another tool, left it: sharded or not, tokenizer in any form that can be fast."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpts.errors import UserError, blaming, named
from minigpts.importing import contents, spm
from minigpts.importing.imported import Description, ImportedModel
from minigpts.importing.imported import describe as describe_parts
from minigpts.importing.requirements import Origins
from minigpts.importing.staging import left_behind, read_json, staged_files, weight_files
from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from minigpts.model.weights import WEIGHTS

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
FULL_PRECISION = ("F64", "F32", "F16", "BF16")
# The names of a text model's modules inside a multimodal one: the hub's, and those of transformers 4.52 and later.
INSIDE = {
    r"^language_model\.model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
    r"^model\.language_model\.": "model.",
}
RESAVE = "load it once where you trust it, save_pretrained it elsewhere, and name that folder"


def read(folder: Path, dtype: torch.dtype, beside: Iterable[str] = ()) -> ImportedModel:
    """Read a checkpoint folder, its weights converted to ``dtype``. No code from the folder runs, and nothing is unpickled.

    ``beside`` names what its source holds besides. Raises UserError for what can't be read that way: a model_type that isn't
    supported, pickled or quantized weights, missing or truncated shards, tensors that aren't exactly the config's; and as
    :func:`describe`.
    """
    with staged_files(folder) as staged:
        description, tokenizer_unread = _describe(staged, folder, dtype)
        model, modules_unread = _model(staged, folder, description.config)
        weights = checkpoint.weights_of(model, dtype)
        names = {*beside, *(path.name for path in folder.iterdir())}
        unread = contents.unread(names, (path.name for path in staged.iterdir()))
    return ImportedModel(description, weights, [*modules_unread, *tokenizer_unread, *unread])


def describe(folder: Path, dtype: torch.dtype) -> Description:
    """The model without its weights, from the small files alone.

    Raises UserError for a config, a tokenizer or a chat template that can't be read, and for what a later stage would refuse.
    """
    with staged_files(folder) as staged:
        return _describe(staged, folder, dtype)[0]


def require_weights(folder: Path) -> None:
    """Raise a UserError for weights that are missing, pickled, truncated or quantized, by the files' headers alone."""
    with staged_files(folder) as staged:
        _check_weights(staged, folder)


def _describe(staged: Path, folder: Path, dtype: torch.dtype) -> tuple[Description, list[str]]:
    """The description, and what of the tokenizer's files is not read."""
    config = _config(staged, dtype)
    fast, stock = _tokenizer(staged, folder)
    template, unread = _template(stock.chat_template)
    origins = Origins(
        config=str(folder / "config.json"),
        generation_config=str(folder / _first_there(staged, "generation_config.json", "config.json")),
        tokenizer=str(folder / _first_there(folder, *(form[0] for form in contents.TOKENIZERS))),
        chat_template=str(folder / _first_there(staged, contents.TEMPLATE, "tokenizer_config.json")),
    )
    special = {role: str(token) for role, token in stock.special_tokens_map.items()}
    description = describe_parts(config, _generation_config(staged, config), fast, special, template, origins)
    return description, unread + _contradictions(staged, folder, fast)


def _first_there(folder: Path, *names: str) -> str:
    return next((name for name in names if (folder / name).exists()), names[-1])


def _config(staged: Path, dtype: torch.dtype) -> PreTrainedConfig:
    """The config in ``dtype``. Raises UserError where stock transformers reads it as another family's."""
    from transformers import AutoConfig

    with blaming(staged / "config.json", "no model can be built of it"):
        config = checkpoint.load_config(staged)
        stock = AutoConfig.from_pretrained(staged, trust_remote_code=False)
    if stock.model_type != config.model_type:
        raise UserError(f"{staged / 'config.json'}: transformers reads it as a {stock.model_type} model, which is not supported")
    config.dtype = dtype
    return config


def _check_weights(staged: Path, folder: Path) -> None:
    """Raise a UserError for a shard that is missing, truncated or quantized, by the files' headers alone."""
    from safetensors import safe_open

    shards = [staged / name for name in weight_files(staged)]
    for shard in shards:
        if not shard.exists() and any(path for suffix in PICKLED for path in folder.glob(f"*{suffix}")):
            raise UserError(f"{folder}: its weights are pickled, and unpickling can run any code; {RESAVE}")
        if not shard.exists():
            raise UserError(f"{shard}: no such file; the folder isn't a whole checkpoint")
        with blaming(shard, "not a readable safetensors file, fetch or make it again"), safe_open(shard, framework="pt") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys() if name.endswith(".weight")}  # noqa: SIM118
        for name, kind in kinds.items():
            if kind not in FULL_PRECISION:
                raise UserError(f"{shard}: {name} is {kind}, so the weights are quantized; name a model with full-precision ones")


def _model(staged: Path, folder: Path, config: PreTrainedConfig) -> tuple[PreTrainedModel, list[str]]:
    """The model in ``config.dtype``, every tensor from the folder, and what is said of modules that are left behind.

    Names that checkpoints had over the years (GPT-2's without a prefix, GPT-NeoX's ``embed_out``, stored masks) are stock
    transformers' to know; what it would leave out or make up is an error here.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    _check_weights(staged, folder)
    if getattr(config, "intermediate_sizes", None) is not None:  # ours: no stock class has such widths
        if not (staged / WEIGHTS).exists():
            raise UserError(f"{folder}: widths that differ between layers are read from {WEIGHTS} alone; save it in one")
        return checkpoint.load_model(staged, config.dtype), []
    modules = left_behind(folder)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its tables of what doesn't fit: the first such tensor is named below
    try:
        with blaming(folder, "transformers can't load its weights"):
            model, info = AutoModelForCausalLM.from_pretrained(
                staged,
                config=config,
                dtype=config.dtype,
                attn_implementation=None,
                experts_implementation=None,
                key_mapping=INSIDE if modules else None,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # so that they are listed
                output_loading_info=True,
            )
    finally:
        logging.set_verbosity(verbosity)
    text = {name for name in info["unexpected_keys"] if _outermost(name) not in modules}
    _check_loaded(folder, model, {**info, "unexpected_keys": text})
    beside = [module for name in _stored_names(staged) if (module := _outermost(name)) in modules]
    return model, [f"{', '.join(sorted({*beside}))} ({len(beside)} tensors beside the text model)"] if beside else []


def _outermost(name: str) -> str:
    return name.removeprefix("model.").partition(".")[0]


def _stored_names(staged: Path) -> Iterator[str]:
    """The names of all tensors in the folder's files: transformers itself may pass over some without a word."""
    from safetensors import safe_open

    for shard in weight_files(staged):
        with safe_open(staged / shard, framework="pt") as file:
            yield from file.keys()


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


def _generation_config(staged: Path, config: PreTrainedConfig) -> GenerationConfig:
    from transformers import GenerationConfig

    path = staged / "generation_config.json"
    if not path.exists():
        return GenerationConfig.from_model_config(config)
    with blaming(path, "transformers can't read it"):
        return GenerationConfig.from_pretrained(staged)


def _tokenizer(staged: Path, folder: Path) -> tuple[Tokenizer, PreTrainedTokenizerBase]:
    """The tokenizer itself, and stock transformers' around it, which knows the special tokens and the chat template.

    ``tokenizer.json`` decides as it stands, since some of transformers' classes replace its pre-tokenizer; else SentencePiece's
    ``tokenizer.model``; else what transformers makes of ``vocab.json`` and ``merges.txt``.
    """
    settings_path, path = staged / "tokenizer_config.json", staged / "tokenizer.json"
    settings = read_json(settings_path) if settings_path.exists() else {}
    if "auto_map" in settings:
        raise UserError(f"{settings_path}: the tokenizer needs code of its own (auto_map), which is never run")
    if (staged / "tokenizer.model").exists():
        with named(path, staged / "tokenizer.model"):
            # what transformers' classes around SentencePiece take where the settings don't say
            around = settings.get("add_bos_token", True), settings.get("add_eos_token", False)
            path.write_text(spm.read(staged / "tokenizer.model", *around).to_str(), encoding="utf-8", newline="\n")
    if not path.exists():
        stock = _stock_tokenizer(staged, folder)
        return stock.backend_tokenizer, stock
    fast, stock = checkpoint.load_fast_tokenizer(staged), _stock_tokenizer(staged, folder)
    for token, token_id in stock.get_added_vocab().items():
        if fast.token_to_id(token) != token_id:
            raise UserError(
                f"{path}: lacks the token {token!r} that tokenizer_config.json, special_tokens_map.json or added_tokens.json adds;"
                " save the tokenizer anew"
            )
    return fast, stock


def _stock_tokenizer(staged: Path, folder: Path) -> PreTrainedTokenizerBase:
    tokenizer = checkpoint.load_tokenizer(staged)
    if not tokenizer.is_fast:
        raise UserError(f"{folder}: its tokenizer has no fast form; the pipeline needs a tokenizer.json")
    return tokenizer


def _template(found: str | dict[str, str] | None) -> tuple[str | None, list[str]]:
    """The chat template that is kept, and what is said of the others that the settings hold."""
    if not isinstance(found, dict):
        return found, []
    others = ", ".join(sorted(found.keys() - {"default"}))
    return found.get("default"), [f"the chat templates {others} (only the one named default is kept)"] if others else []


def _contradictions(staged: Path, folder: Path, tokenizer: Tokenizer) -> list[str]:
    """What of the folder says something else than what is read in its stead."""
    found = []
    if (staged / "tokenizer.json").exists() and (folder / "vocab.json").exists():
        vocab = read_json(folder / "vocab.json")
        if any(tokenizer.token_to_id(token) != token_id for token, token_id in vocab.items()):
            found.append("vocab.json contradicts the tokenizer that is read")
    settings = staged / "tokenizer_config.json"
    if (staged / contents.TEMPLATE).exists() and settings.exists():
        other = read_json(settings).get("chat_template")
        if other is not None and other != (staged / contents.TEMPLATE).read_text(encoding="utf-8"):
            found.append(f"tokenizer_config.json's chat_template differs from {contents.TEMPLATE}, which is read")
    return found
