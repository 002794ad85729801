"""The only loader and saver of models. Every checkpoint folder has one shape:

``config.json``, ``generation_config.json``, ``model.safetensors`` (one dtype, tied weights stored once), ``tokenizer.json``,
``tokenizer_config.json`` and, where the parent has one, ``chat_template.jinja``.

Loading and saving are strict: a missing, unexpected or wrongly shaped tensor is an error, and nothing is ever randomly
initialized. Both go tensor by tensor: what is in memory beside the model, if there is one, is a single tensor.
MLP widths that differ between layers have no native class in transformers; they stand in ``config.json`` as
``intermediate_sizes``, and the folder holds a modelling file besides (see :mod:`minigpts.model.uneven_widths`).
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpts import artifacts
from minigpts.errors import UserError, blaming
from minigpts.model import experts
from minigpts.model.config_facts import facts_of
from minigpts.model.families import spec_for
from minigpts.model.transformers4 import both_spellings
from minigpts.model.weights import WEIGHTS, NamedTensors, Shapes, StoredWeights, TensorWriter, num_parameters

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
COMPANIONS = (*TOKENIZER_FILES, "generation_config.json")
SKIPPED = "skipped.json"  # stands alone in the folder of a checkpoint whose stage was switched off


def load_config(directory: Path) -> PreTrainedConfig:
    """Read the facts of ``config.json``; what would make a library load or run something is left out.

    Raises UserError when the file is absent, no JSON, or of a family, or a form of one, that is not supported.
    """
    from transformers import AutoConfig

    path = directory / "config.json"
    if not path.exists():
        raise UserError(f"{path}: no such file; is {directory} a checkpoint folder?")
    try:
        facts = facts_of(json.loads(path.read_text(encoding="utf-8"), object_hook=_number))
        model_type = facts.pop("model_type")
    except (ValueError, RecursionError, KeyError, AttributeError):
        raise UserError(f"{path}: must be a JSON object with a 'model_type'") from None
    try:
        spec = spec_for(str(model_type))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    with blaming(path, "no model can be built of it"):
        config = AutoConfig.for_model(model_type, **facts)
    for name, value in spec.assumes.items():
        if getattr(config, name) != value:
            raise UserError(f"{path}: {name} is {getattr(config, name)}; {model_type} models are supported with {value} alone")
    return config


def _number(values: dict[str, Any]) -> Any:
    """JSON has no infinity: transformers writes an object in its place."""
    return float(values["__float__"]) if values.keys() == {"__float__"} else values


def empty_model(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The model of ``config`` in eval mode; its parameters, of ``dtype``, are on the meta device, its buffers are real."""
    from accelerate import init_empty_weights  # type: ignore[import-untyped]
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    from minigpts.model import uneven_widths

    with init_empty_weights(include_buffers=False), no_init_weights():
        # A copy: transformers writes the dtype into the config that it is given.
        model = AutoModelForCausalLM.from_config(
            copy.deepcopy(config), dtype=dtype, trust_remote_code=False, attn_implementation=None, experts_implementation=None
        )
    if getattr(config, "intermediate_sizes", None) is not None:
        uneven_widths.resize_mlps(model, spec_for(config.model_type), config.intermediate_sizes)
    model.tie_weights()
    return model.eval()


def load_model(directory: Path, dtype: torch.dtype, weights: Iterable[tuple[str, torch.Tensor]] | None = None) -> PreTrainedModel:
    """Build the model of ``config.json`` in ``dtype`` (eval mode) and fill it strictly from ``model.safetensors``.

    ``weights`` are all of that file's tensors as another file has them, to fill it from instead. They are converted to ``dtype``;
    buffers such as rotary frequencies, and parameters that the class makes in fp32 whatever it is asked for, keep that precision.
    Raises UserError when names or shapes of the weights contradict the config.
    """
    from transformers import GenerationConfig

    config, stored = load_config(directory), StoredWeights(directory)
    model = empty_model(config, dtype)
    require_shapes(model, stored)
    dtypes = {name: tensor.dtype for name, tensor in as_stored(model).items()}
    for name, tensor in stored.items() if weights is None else weights:
        set_tensor(model, name, tensor.to(dtypes[name]))
    model.tie_weights()
    if (directory / "generation_config.json").exists():
        with blaming(directory / "generation_config.json", "transformers can't read it"):
            model.generation_config = GenerationConfig.from_pretrained(directory)
    return model


def set_tensor(model: PreTrainedModel, name: str, tensor: torch.Tensor) -> None:
    """Make ``tensor`` the parameter or buffer of ``model`` that the weights file calls ``name``, without copying it, or one
    expert's part of it."""
    import torch

    spec = spec_for(model.config.model_type)
    before, below = experts.split_name(spec, name)
    part = experts.Part(below) if spec.experts is None or not before else experts.part_of(spec.experts, below)
    module, _, attribute = (before + part.name).rpartition(".")
    if module == spec.stored_lm_head:
        module = spec.lm_head
    owner = model.get_submodule(module)
    if part.expert is None:
        owner.load_state_dict({attribute: tensor}, strict=False, assign=True)
        return
    whole = owner.get_parameter(attribute)
    if whole.is_meta:
        owner.load_state_dict({attribute: torch.empty_like(whole, device="cpu", dtype=tensor.dtype)}, strict=False, assign=True)
    part.of(owner.get_parameter(attribute).detach()).copy_(tensor)


def stored_shapes(config: PreTrainedConfig) -> Shapes:
    """Names and shapes of the tensors that a checkpoint with this config holds."""
    return _shapes(empty_model(config, config.dtype))


def require_shapes(model: PreTrainedModel, stored: StoredWeights) -> None:
    """Raise a UserError naming the first tensor whose name or shape isn't the model's."""
    _check(_shapes(model), stored.shapes, stored.path)


def _shapes(model: PreTrainedModel) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in as_stored(model).items()}


def as_stored(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The state dict as it is stored, views: a tied lm_head left out, another and the experts by the names that the file has."""
    spec = spec_for(model.config.model_type)
    weights = experts.as_stored(model.state_dict(), spec)
    head = weights.pop(f"{spec.lm_head}.weight", None)
    if head is not None and not model.config.tie_word_embeddings:
        weights[f"{spec.stored_lm_head}.weight"] = head
    return weights


def _check(expected: Shapes, found: Shapes, where: Path) -> None:
    """Raise a UserError naming the first tensor in which ``found`` departs from ``expected``."""
    problems = [f"missing {name}" for name in expected if name not in found]
    problems += [f"unexpected {name}" for name in found if name not in expected]
    problems += [
        f"{name} is {found[name]}, expected {expected[name]}"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise UserError(f"{where}: does not match config.json: {problems[0]}{more}")


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer as stock ``AutoTokenizer`` loads it, without running code from the folder.

    Raises UserError when it can't.
    """
    from transformers import AutoTokenizer

    lacking = "" if (directory / "tokenizer.json").exists() else "no tokenizer.json, and "
    with blaming(directory, f"{lacking}transformers can't load its tokenizer"):
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)


def load_fast_tokenizer(directory: Path) -> Tokenizer:
    """``tokenizer.json`` in the ``tokenizers`` library alone: no torch, no transformers, and what counts tokens fastest."""
    from tokenizers import Tokenizer

    path = directory / "tokenizer.json"
    if not path.exists():
        raise UserError(f"{path}: no such file; the pipeline needs a tokenizer.json")
    with blaming(path, "not a readable tokenizer, fetch or save it again"):
        tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@contextmanager
def saving(directory: Path, config: PreTrainedConfig, weights: NamedTensors, companions: Path) -> Iterator[Path]:
    """Write a checkpoint; tokenizer and generation config are copied from the folder ``companions``.

    ``weights`` are names and tensors of ``config.dtype`` in any order, each written as it comes; one that another file holds
    unchanged is copied from there. Yields the temporary folder, for a stage to add its index map or replace the tokenizer in;
    it takes its final name when the block ends well, so a reader never sees half a checkpoint. Raises UserError when names or
    shapes are not those of the config.
    """
    from minigpts.model import uneven_widths

    with artifacts.replacing(directory) as temporary:
        temporary.mkdir()
        uneven_widths.ship(config, temporary)
        _write_config(temporary, config)
        _write_weights(temporary / WEIGHTS, config, weights, directory)
        for name in COMPANIONS:
            if (companions / name).exists():
                shutil.copyfile(companions / name, temporary / name)
        yield temporary


def _write_config(folder: Path, config: PreTrainedConfig) -> None:
    config.save_pretrained(folder)
    path = folder / "config.json"
    fields = both_spellings(json.loads(path.read_text(encoding="utf-8")), spec_for(config.model_type))
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_weights(path: Path, config: PreTrainedConfig, weights: NamedTensors, directory: Path) -> None:
    expected = stored_shapes(config)
    with path.open("wb") as file:
        writer = TensorWriter(file, expected, config.dtype, {"format": "pt"})
        for name, tensor in weights:
            _check({name: expected[name]} if name in expected else {}, {name: tuple(tensor.shape)}, directory)
            writer.write(name, tensor)
        _check({name: expected[name] for name in writer.missing()}, {}, directory)


def weights_of(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The model's tensors as they are stored: in ``dtype``, a tied lm_head left out."""
    return {name: tensor.detach().to("cpu", dtype) for name, tensor in as_stored(model).items()}


def sizes(directory: Path) -> dict[str, Any]:
    """``num_parameters``, ``num_nonzero_parameters`` (exact zeros don't count), ``checkpoint_bytes`` (of the weights
    file) and ``vocab_size`` of a checkpoint."""
    stored = StoredWeights(directory)
    return {
        "num_parameters": num_parameters(stored.shapes),
        "num_nonzero_parameters": sum(int(tensor.count_nonzero()) for tensor in stored.values()),
        "checkpoint_bytes": stored.path.stat().st_size,
        "vocab_size": load_config(directory).vocab_size,
    }
