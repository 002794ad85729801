"""The only loader and saver of models. Every checkpoint folder has one shape:

``config.json``, ``generation_config.json``, ``model.safetensors`` (one dtype, tied weights stored once), ``tokenizer.json``,
``tokenizer_config.json`` and, where the parent has one, ``chat_template.jinja``.

Loading is strict: a missing, unexpected or wrongly shaped tensor is an error and nothing is ever randomly initialized.
Widths that differ between layers have no native class in transformers; they stand in ``config.json`` as
``intermediate_sizes`` and are honoured here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpts import artifacts
from minigpts.architectures.registry import spec_for
from minigpts.errors import UserError

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS = "model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
COMPANIONS = (*TOKENIZER_FILES, "generation_config.json")


def load_config(directory: Path) -> PreTrainedConfig:
    """Read ``config.json``. Raises UserError when it is absent, no JSON, or of a family that is not supported."""
    from transformers import AutoConfig

    path = directory / "config.json"
    if not path.exists():
        raise UserError(f"{path}: no such file; is {directory} a checkpoint folder?")
    try:
        model_type = json.loads(path.read_text(encoding="utf-8"))["model_type"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise UserError(f"{path}: must be a JSON object with a 'model_type'") from None
    try:
        spec_for(model_type)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return AutoConfig.from_pretrained(directory)


def read_weights(directory: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint by name, in its stored dtype; a tied lm_head has no entry of its own."""
    return artifacts.read_tensors(directory / WEIGHTS)


def load_model(directory: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Build the model of ``config.json`` in ``dtype`` (eval mode) and fill it strictly from ``model.safetensors``.

    The weights are converted to ``dtype``; buffers such as rotary frequencies keep the precision the class gives them.
    Raises UserError when names or shapes of the weights contradict the config.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.initialization import no_init_weights

    config = load_config(directory)
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    _apply_layer_widths(model, config)
    _fill(model, read_weights(directory), directory)
    if (directory / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(directory)
    return model.eval()


def _apply_layer_widths(model: PreTrainedModel, config: PreTrainedConfig) -> None:
    """Give each layer the MLP width that ``intermediate_sizes`` names, where the config has it."""
    import torch

    spec = spec_for(config.model_type)
    for index, width in enumerate(getattr(config, "intermediate_sizes", None) or ()):
        for name in (*spec.mlp_in, spec.mlp_out):
            path = spec.layer(index, name)
            old = model.get_submodule(path)
            shape = (width, old.out_features) if name == spec.mlp_out else (old.in_features, width)
            new = torch.nn.Linear(*shape, bias=old.bias is not None, dtype=old.weight.dtype, device=old.weight.device)
            parent, _, attribute = path.rpartition(".")
            setattr(model.get_submodule(parent), attribute, new)


def _fill(model: PreTrainedModel, weights: Mapping[str, torch.Tensor], directory: Path) -> None:
    where = directory / WEIGHTS
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise UserError(f"{where}: its shapes contradict config.json ({detail})") from None
    tied = {f"{spec_for(model.config.model_type).lm_head}.weight"} if model.config.tie_word_embeddings else set()
    problems = [f"missing {name}" for name in missing if name not in tied] + [f"unexpected {name}" for name in unexpected]
    if problems:
        raise UserError(
            f"{where}: does not match config.json: {problems[0]}" + (f" and {len(problems) - 1} more" if len(problems) > 1 else "")
        )
    model.tie_weights()


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer as stock ``AutoTokenizer`` loads it, without running code from the folder."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)


def load_fast_tokenizer(directory: Path) -> Tokenizer:
    """``tokenizer.json`` in the ``tokenizers`` library alone: no torch, no transformers, and what counts tokens fastest."""
    from tokenizers import Tokenizer

    path = directory / "tokenizer.json"
    if not path.exists():
        raise UserError(f"{path}: no such file; the pipeline needs a tokenizer.json")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@contextmanager
def saving(directory: Path, config: PreTrainedConfig, weights: Mapping[str, torch.Tensor], companions: Path) -> Iterator[Path]:
    """Write a checkpoint; tokenizer and generation config are copied from the folder ``companions``.

    Yields the temporary folder, for a stage to add its index map or replace the tokenizer in; it takes its final name
    when the block ends well, so a reader never sees half a checkpoint.
    """
    with artifacts.replacing(directory) as temporary:
        temporary.mkdir()
        config.save_pretrained(temporary)
        artifacts.write_tensors(temporary / WEIGHTS, weights, {"format": "pt"})
        for name in COMPANIONS:
            if (companions / name).exists():
                shutil.copyfile(companions / name, temporary / name)
        yield temporary


def weights_of(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The model's parameters as they are stored: in ``dtype``, a tied lm_head left out."""
    weights = {name: tensor.detach().to(dtype) for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        weights.pop(f"{spec_for(model.config.model_type).lm_head}.weight", None)
    return weights


def stored_dtype(directory: Path) -> torch.dtype:
    """The one dtype of a checkpoint's tensors."""
    from safetensors import safe_open

    with safe_open(directory / WEIGHTS, framework="pt") as file:
        return file.get_tensor(next(iter(file.keys()))).dtype


def sizes(directory: Path) -> dict[str, Any]:
    """``num_parameters``, ``num_nonzero_parameters`` (exact zeros don't count), ``checkpoint_bytes`` (of the weights
    file) and ``vocab_size`` of a checkpoint."""
    weights = read_weights(directory)
    return {
        "num_parameters": sum(tensor.numel() for tensor in weights.values()),
        "num_nonzero_parameters": sum(int(tensor.count_nonzero()) for tensor in weights.values()),
        "checkpoint_bytes": (directory / WEIGHTS).stat().st_size,
        "vocab_size": load_config(directory).vocab_size,
    }
