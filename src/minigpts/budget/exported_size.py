"""The exact size of the file that a child would be exported to, without making the child."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from minigpts.budget.accounting import Outline, child_shapes
from minigpts.errors import UserError
from minigpts.exporting import gguf_file
from minigpts.exporting.general_section import Provenance, general_section
from minigpts.exporting.tokenizer_section import tokenizer_section
from minigpts.model import checkpoint
from minigpts.model.weights import num_parameters
from minigpts.pruning import cutting, experts, heads, layers, neurons
from minigpts.pruning.slicing import AttentionShape
from minigpts.quantization.formats import UNFIT
from minigpts.quantization.groups import GROUPS, formats_of
from minigpts.vocabulary import trim
from minigpts.vocabulary.embeddings import shrink_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from minigpts.exporting.hyperparameters import Fields
    from minigpts.model.weights import Shapes
    from minigpts.vocabulary.choice import VocabularyChoice


class ExportedSize:
    """Gives the size of children of one parent; a tokenizer is trimmed once for each number of tokens asked for."""

    def __init__(
        self, parent: cutting.Parent, vocabulary: VocabularyChoice, origin: Provenance, shapes: Shapes, with_biases: bool
    ) -> None:
        """``origin`` is what the files say of their parent, whose ``shapes`` have the MLP biases that its children will have
        (``with_biases``)."""
        self.parent, self.vocabulary, self.shapes, self.with_biases = parent, vocabulary, shapes, with_biases
        self.origin = replace(origin, parent_parameters=num_parameters(parent.stored.shapes))
        self.sections: dict[int, Fields] = {}

    def __call__(self, outline: Outline, num_counted: int, formats: dict[str, str]) -> int:
        """Bytes of the file of a child of these sizes that keeps ``num_counted`` tokens for their count, by each group's format.

        Raises UserError where llama.cpp can't hold it.
        """
        shapes = child_shapes(self.shapes, self.parent.spec, self._attention.num_groups, outline)
        tensors = formats_of(self.parent.spec.model_type, shapes, formats)
        general = general_section(replace(self.origin, num_parameters=num_parameters(shapes)))
        metadata = {**general, **self._section(num_counted)}
        return gguf_file.file_bytes(self._config(outline, num_counted), shapes, tensors, metadata)

    def holds(self, outline: Outline) -> bool:
        """Whether a file can hold a child of these sizes: removed layers break some families' windows, heads their widths."""
        try:
            self(outline, len(self.vocabulary.sizes) - 1, dict.fromkeys(GROUPS, UNFIT))
        except UserError:
            return False
        return True

    @cached_property
    def _attention(self) -> AttentionShape:
        return AttentionShape.of(self.parent.config)

    def _config(self, outline: Outline, num_counted: int) -> PreTrainedConfig:
        config, spec = copy.deepcopy(self.parent.config), self.parent.spec
        heads.set_heads(config, spec, self._attention, outline.num_groups)
        layers.set_layers(config, spec, outline.layers)
        neurons.set_widths(config, spec, outline.widths)
        experts.set_experts(config, spec, outline.num_experts)
        if self.with_biases and spec.mlp_bias_field is not None:
            setattr(config, spec.mlp_bias_field, True)
        shrink_config(config, list(self.vocabulary.most_frequent(num_counted)))
        return config

    def _section(self, num_counted: int) -> Fields:
        """What the file says of the tokenizer."""
        if num_counted not in self.sections:
            kept = list(self.vocabulary.most_frequent(num_counted))
            with TemporaryDirectory() as name:
                folder = Path(name)
                for companion in checkpoint.COMPANIONS:
                    if (self.parent.folder / companion).exists():
                        shutil.copyfile(self.parent.folder / companion, folder / companion)
                trim.trim_files(folder, self.vocabulary.definition, self.vocabulary.tokenizer, kept)
                self.sections[num_counted] = tokenizer_section(folder, len(kept))
        return self.sections[num_counted]
