"""The one way a checkpoint becomes a folder that people run: file, Modelfile and card, whole or not at all."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpts import artifacts
from minigpts.exporting import gguf_file, onnx_files
from minigpts.exporting.general_section import Provenance, general_section
from minigpts.exporting.gguf_file import Layout
from minigpts.exporting.hyperparameters import Fields
from minigpts.exporting.modelfile import modelfile
from minigpts.exporting.tokenizer_section import tokenizer_section
from minigpts.model import checkpoint
from minigpts.model.weights import Shapes, StoredWeights, num_parameters
from minigpts.quantization.formats import BlockFormat, PackedWeight
from minigpts.quantization.groups import GROUPS, formats_of, group_of, row_length

if TYPE_CHECKING:
    import torch

    from minigpts.quantization.blocks import Blocks

REST = "norms, biases and positions"  # what is in no group


def metadata(directory: Path, origin: Provenance) -> Fields:
    """All metadata of a checkpoint's file but the hyperparameters."""
    return {**general_section(origin), **tokenizer_section(directory, checkpoint.load_config(directory).vocab_size)}


def packed(
    directory: Path, formats: Mapping[str, BlockFormat], rounded: Iterable[tuple[str, Blocks]]
) -> Iterator[tuple[str, torch.Tensor | PackedWeight]]:
    """The checkpoint's tensors one by one, those that ``formats`` names as they were ``rounded``."""
    yield from ((name, tensor) for name, tensor in StoredWeights(directory).items() if name not in formats)
    yield from ((name, blocks.packed()) for name, blocks in rounded)


def write(
    out: Path,
    directory: Path,
    origin: Provenance,
    wanted: Mapping[str, str],
    weights: Iterable[tuple[str, torch.Tensor | PackedWeight]],
    card: Callable[[dict[str, Any]], str],
    onnx: bool = False,
) -> dict[str, Any]:
    """Write the folder ``out`` from the checkpoint in ``directory``, and return the stage's metrics.

    ``wanted`` are formats by group, ``weights`` the checkpoint's tensors packed in them; ``card`` makes
    the model card of the metrics. ``onnx`` adds the checkpoint as ONNX, and its ``onnx_megabytes`` to the metrics.
    Raises UserError, before anything is written, for a model or a tokenizer that llama.cpp can't hold.
    """
    config, shapes = checkpoint.load_config(directory), StoredWeights(directory).shapes
    formats = formats_of(config.model_type, shapes, wanted)
    fields, file = metadata(directory, origin), f"{origin.name}.gguf"
    with artifacts.replacing(out) as folder:
        folder.mkdir()
        added = {"onnx_megabytes": onnx_files.write(folder, directory)} if onnx else {}
        layout = gguf_file.write(folder / file, config, shapes, formats, fields, weights)
        described = {**metrics(config.model_type, shapes, wanted, layout), "file": file, **added}
        (folder / "README.md").write_text(card(described), encoding="utf-8")
        ollama = modelfile(directory, file, config.max_position_embeddings)
        (folder / "Modelfile").write_text(ollama, encoding="utf-8")
    return described


def metrics(model_type: str, shapes: Shapes, wanted: Mapping[str, str], layout: Layout) -> dict[str, Any]:
    """What the file holds: ``megabytes`` (10^6), ``bits_per_weight``, and bytes and formats by group.

    ``fallbacks`` says which weights are in another format than their group's, and why.
    """
    formats = formats_of(model_type, shapes, wanted)
    totals, used, fallbacks = Counter[str](header=len(layout.header)), defaultdict[str, Counter[str]](Counter), Counter[str]()
    for name, shape in shapes.items():
        group = group_of(model_type, name, shape)
        totals[group or REST] += layout.bytes_of(name, formats)
        if group is not None:
            used[group][formats[name].name] += 1
            fallbacks.update(_fallback(group, wanted[group], formats[name], row_length(model_type, name, shape)))
    totals["header"] += layout.num_bytes - sum(totals.values())  # alignment and tensors of the config's
    return {
        "megabytes": layout.num_bytes / 1e6,
        "bits_per_weight": 8 * layout.num_bytes / num_parameters(shapes),
        "bytes_by_group": dict(totals),
        "formats": {group: dict(used[group]) for group in GROUPS if used[group]},
        "fallbacks": dict(fallbacks),
    }


def _fallback(group: str, wanted: str, used: BlockFormat, length: int) -> list[str]:
    """The sentence for a weight that isn't in its group's format."""
    return [] if used.name == wanted else [f"{group}: {used.name} for {wanted}, whose blocks don't divide rows of {length}"]
