"""A checkpoint as a GGUF file in one plain format or in a mixture of llama.cpp's, and a file as a model that transformers runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.llamacpp import library, quantize_model
from benchmarks.llamacpp.importance import calibration_tokens, of_checkpoint
from minigpts.exporting import gguf_file
from minigpts.exporting.tokenizer_section import tokenizer_section
from minigpts.gguf_layout import read_back
from minigpts.gguf_layout.architectures import architecture_of
from minigpts.gguf_layout.places import places
from minigpts.model import checkpoint
from minigpts.model.weights import StoredWeights
from minigpts.quantization.formats import format_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NamedWeights = Iterable[tuple[str, torch.Tensor]]
PLAIN = ("BF16", "F16", "F32")


def write_plain(folder: Path, out: Path, name: str, weights: NamedWeights | None = None) -> None:
    """Write a checkpoint as a GGUF file, its matrices in ``name``, a format of plain numbers, and its vectors in F32.

    ``weights`` are its tensors by name where they aren't to be the checkpoint's own.
    """
    config, stored = checkpoint.load_config(folder), StoredWeights(folder)
    formats = {weight: format_of(name) for weight, shape in stored.shapes.items() if len(shape) > 1}
    tokenizer = tokenizer_section(folder, config.vocab_size)
    gguf_file.write(out, config, stored.shapes, formats, tokenizer, stored.items() if weights is None else weights)


def values(file: Path, folder: Path) -> NamedWeights:
    """The weights of ``file``, dequantized, by their names in the checkpoint ``folder`` that it was made from; float32."""
    return read_back.DequantizedWeights(file, checkpoint.load_config(folder), StoredWeights(folder).shapes).items()


def load(file: Path, folder: Path) -> PreTrainedModel:
    """The model of checkpoint ``folder`` in fp32 with the weights of ``file``, which was made from it."""
    return checkpoint.load_model(folder, torch.float32, values(file, folder))


@dataclass(frozen=True)
class Quantizer:
    """Makes llama.cpp's files of one checkpoint, all with one importance matrix, in ``scratch``."""

    folder: Path  # the checkpoint
    scratch: Path
    package: Path  # where llama.cpp's quantizer is installed, see quantize_model
    texts: Sequence[str]  # calibration
    num_tokens: int  # of them

    def check(self, names: Sequence[str]) -> None:
        """Raise a UserError where the checkpoint isn't there, or what one of ``names`` needs of llama.cpp."""
        architecture_of(checkpoint.load_config(self.folder))
        library.library()
        if not set(names) <= set(PLAIN):
            quantize_model.library(self.package)

    def file(self, name: str) -> Path:
        """The checkpoint as a GGUF file in a plain format or a mixture of llama.cpp's. The caller may remove it."""
        out = self.scratch / f"{name}.gguf"
        if name in PLAIN:
            write_plain(self.folder, out, name)
        else:
            quantize_model.quantize(self._source, out, name, self._importance, self.package)
        return out

    @cached_property
    def _source(self) -> Path:
        out = self.scratch / "source.gguf"
        write_plain(self.folder, out, "BF16")
        return out

    @cached_property
    def _importance(self) -> dict[str, np.ndarray]:
        """By GGUF's names."""
        config, shapes = checkpoint.load_config(self.folder), StoredWeights(self.folder).shapes
        found = of_checkpoint(self.folder, calibration_tokens(self.folder, self.texts, self.num_tokens))
        named = {}
        for weight, place in places(architecture_of(config), config, shapes).items():
            if weight in found:
                named[place.name] = found[weight]
                if place.copy:
                    named[place.copy] = found[weight]
        return named
