"""A model as any source reads it, and the one way it becomes a checkpoint: written to a temporary folder and proved there."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from minigpts import artifacts, checkpoint
from minigpts.errors import UserError

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


def write(model: ImportedModel, origin: Path, destination: Path) -> None:
    """Write the checkpoint folder ``destination``, unless :func:`verify` refuses it: then nothing is left behind.

    ``origin`` is what error messages name.
    """
    with tempfile.TemporaryDirectory(prefix="minigpts-import-") as companions:
        _write_companions(model, Path(companions))
        with checkpoint.saving(destination, model.config, model.weights, Path(companions)) as folder:
            try:
                verify(folder)
            except UserError as error:
                raise UserError(str(error).replace(str(folder), str(origin))) from None


def _write_companions(model: ImportedModel, folder: Path) -> None:
    model.generation_config.save_pretrained(folder)
    model.tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        # Other classes of transformers 5 replace the file's pre-tokenizer with one of their own.
        "tokenizer_class": "TokenizersBackend",
        "model_max_length": model.config.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
        **model.special_tokens,
    }
    artifacts.write_json(folder / "tokenizer_config.json", settings)
    if model.chat_template is not None:
        (folder / "chat_template.jinja").write_text(model.chat_template, encoding="utf-8", newline="\n")


def verify(directory: Path) -> None:
    """Prove that a checkpoint folder is sound, or raise a UserError that says what isn't.

    Every weight is finite; names and shapes are exactly those of the config; every token has an embedding row; and stock
    ``AutoTokenizer`` tokenizes as ``tokenizer.json`` does.
    """
    _verify_finite(directory)
    model = checkpoint.load_model(directory, checkpoint.stored_dtype(directory))
    fast = checkpoint.load_fast_tokenizer(directory)
    largest = max(fast.get_vocab(with_added_tokens=True).values())
    if largest >= model.config.vocab_size:
        raise UserError(
            f"{directory}: tokenizer.json has token id {largest}, config.json's vocab_size is {model.config.vocab_size}"
        )
    stock = checkpoint.load_tokenizer(directory)
    for probe in PROBES:
        if stock(probe).input_ids != fast.encode(probe).ids:
            raise UserError(f"{directory}: AutoTokenizer and tokenizer.json disagree on {probe!r}; the tokenizer isn't supported")


def _verify_finite(directory: Path) -> None:
    for name, tensor in checkpoint.read_weights(directory).items():
        if not tensor.isfinite().all():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(
                f"{directory}: {name} has NaN or infinite values in {kind}; the weights are damaged or need a wider dtype"
            )
