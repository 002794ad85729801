"""A checkpoint folder as stock loaders may see it: the files that the project reads, and no settings that load or run anything."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minigpts.errors import UserError, named
from minigpts.importing import contents
from minigpts.model.config_facts import facts_of
from minigpts.model.families import SPECS, WRAPPERS, spec_for
from minigpts.model.weights import WEIGHTS
from minigpts.untrusted import leads_out
from minigpts.vocabulary import trim

# What tokenizer_config.json may say that makes transformers read other files than these.
FILES_ELSEWHERE = {
    *("fast_tokenizer_files", "tokenizer_file", "vocab_file", "merges_file", "gguf_file", "special_tokens_map_file"),
    *("tokenizer_config_file", "chat_template_file", "added_tokens_file", "name_or_path", "cache_dir", "_commit_hash"),
    *("init_inputs", "from_slow", "tokenizer_object", "trust_remote_code", "is_local", "local_files_only", "token"),
}
# What generation_config.json may say of how to compute, and not of what: compilers, caches, helper models, forms of output.
WAYS_TO_COMPUTE = {
    *("compile_config", "disable_compile", "cache_implementation", "cache_config", "use_cache", "custom_generate", "use_mtp"),
    *("continuous_batching_config", "is_assistant", "speculation_type", "low_memory", "return_legacy_cache"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
}


# What a multimodal config says of its text model beside `text_config`.
BESIDE_TEXT = ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "dtype", "torch_dtype")

# Layers that a config may ask for: building that many, even without weights, takes seconds. The largest open models have 126.
MOST_LAYERS = 1024
LAYERS = ("num_hidden_layers", "n_layer", "num_layers")  # names of the field that says how many


@contextmanager
def staged_files(folder: Path) -> Iterator[Path]:
    """A temporary folder with the files of ``folder`` that are read, for stock loaders, which would find others by themselves.

    What its settings say of code, kernels and files elsewhere is gone, and a token id of -1 is none. Messages name ``folder``.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; model.path must be a checkpoint folder")
    check_config(folder)
    form = next((form for form in contents.TOKENIZERS if (folder / form[0]).exists()), ())
    weights = weight_files(folder)
    settings = [name for name in contents.SETTINGS if name != contents.INDEX or weights != [WEIGHTS]]
    with tempfile.TemporaryDirectory(prefix="minigpts-import-") as scratch, named(scratch, folder):
        staged = Path(scratch)
        for name in (*settings, contents.TEMPLATE, *form, *weights):
            _require_inside(folder / name)
        for name in settings:
            if (folder / name).exists():
                (staged / name).write_text(json.dumps(_harmless(name, read_json(folder / name))), encoding="utf-8")
        for name in (contents.TEMPLATE, *form, *weights):
            if (folder / name).exists():
                (staged / name).symlink_to((folder / name).resolve())
        yield staged


def _require_inside(path: Path) -> None:
    """Raise a UserError for a link out of the folder: what it leads to would become part of the model, and go where that goes."""
    if leads_out(path, path.parent):
        raise UserError(f"{path}: a link out of the folder; put the file itself there if it belongs to the model")


def _harmless(name: str, values: dict[str, Any]) -> dict[str, Any]:
    if name == "config.json":
        return trim.without_minus_one(facts_of(text_config(values)))
    unread = {"generation_config.json": WAYS_TO_COMPUTE, "tokenizer_config.json": FILES_ELSEWHERE}.get(name, set())
    return trim.without_minus_one({field: value for field, value in values.items() if field not in unread})


def check_config(folder: Path) -> None:
    """Raise a UserError when ``config.json`` alone tells that the model can't be read: before its weights are fetched."""
    path = folder / "config.json"
    outer = read_json(path)
    raw = text_config(outer)
    if "auto_map" in outer and str(raw.get("model_type")) not in SPECS:
        raise UserError(
            f"{path}: the model needs code of its own (auto_map), which is never run; see docs/adding_an_architecture.md"
        )
    if not isinstance(raw.get("model_type"), str):
        raise UserError(f"{path}: must be a JSON object with a 'model_type'")
    try:
        spec_for(raw["model_type"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    for name in LAYERS:
        require_layers(path, name, raw.get(name))
    if (raw.get("quantization_config") or outer.get("quantization_config")) is not None:
        raise UserError(f"{path}: the weights are quantized; name a model with full-precision ones")


def text_config(values: dict[str, Any]) -> dict[str, Any]:
    """The config of the text model inside a multimodal one of :data:`WRAPPERS`; any other's ``values`` as they are."""
    inner = values.get("text_config")
    if str(values.get("model_type")) not in WRAPPERS or not isinstance(inner, dict):
        return values
    return {**{name: values[name] for name in BESIDE_TEXT if values.get(name) is not None}, **inner}


def left_behind(folder: Path) -> tuple[str, ...]:
    """The modules of a multimodal checkpoint that are no part of its text model; none of a text model's."""
    return WRAPPERS.get(str(read_json(folder / "config.json").get("model_type")), ())


def require_layers(path: Path, name: str, layers: object) -> None:
    """Raise a UserError where the field ``name`` of a model's file asks for more than ``MOST_LAYERS``."""
    if isinstance(layers, int | float) and layers > MOST_LAYERS:
        raise UserError(f"{path}: {name} is {layers}, must be ≤ {MOST_LAYERS:,}")


def weight_files(folder: Path) -> list[str]:
    """Names of the safetensors files that hold the weights: the only one, or those of the index beside it."""
    index = folder / contents.INDEX
    if (folder / WEIGHTS).exists() or not index.exists():
        return [WEIGHTS]
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise UserError(f"{index}: has no 'weight_map' from tensors to files")
    for name in names.values():
        if not isinstance(name, str) or name != Path(name).name or not name.endswith(".safetensors"):
            raise UserError(f"{index}: names {name!r}, which is no safetensors file beside it")
    return sorted(set(names.values()))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError where there is none."""
    if not path.exists():
        raise UserError(f"{path}: no such file; is {path.parent} a checkpoint folder?")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: must be a JSON object")
    return values
