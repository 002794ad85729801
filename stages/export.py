"""Write the tuned child as a file that people run: GGUF for llama.cpp and Ollama, with its Modelfile and model card, and ONNX."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from minigpts import artifacts, params
from minigpts.budget import plan
from minigpts.corpus.settings import Settings
from minigpts.errors import exit_cleanly
from minigpts.exporting.params import SEQUENCE_LENGTH, ExportParams
from minigpts.importing.source import ModelSource
from minigpts.model import checkpoint
from minigpts.model.weights import StoredWeights
from minigpts.quantization.groups import formats_of
from minigpts.quantization.params import Precision
from minigpts.training.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from minigpts.quantization.blocks import Blocks
    from minigpts.quantization.formats import BlockFormat, PackedWeight

FLAGS = {
    "model": "the tuned checkpoint",
    "plan": "what plan_budget wrote: a plan's formats replace section precision",
    "text": "calibration text, parquet: what rounding is fitted to",
    "train": "training text, parquet: what the blocks' scales are tuned on",
    "parent": "metrics of the parent, for the card",
    "child": "metrics of the checkpoint, for the card",
    "tuned-parent": "metrics of the tuned parent, for the card; empty where it wasn't tuned",
    "dataset": "metrics of the data set: its sources and their licences",
    "out": "folder to write",
    "metrics": "json to write",
}


Params = ExportParams  # the export section


def main(argv: Sequence[str] | None = None) -> None:
    """Export, or leave a note that nothing was to be."""
    args = params.flags(argv, __doc__, FLAGS)
    settings = params.read(args.params, Params, "export")
    precision = params.read(args.params, Precision, "precision")
    machine = params.read(args.params, params.Runtime, "runtime")
    tuning = params.read(args.params, Recipe, "finetune")
    parent = params.read(args.params, ModelSource, "model")
    dataset = params.read(args.params, Settings, "dataset")
    if not settings.formats:
        with artifacts.replacing(args.out) as folder:
            folder.mkdir()
            artifacts.write_json(folder / checkpoint.SKIPPED, {"formats": []})
        artifacts.write_json(args.metrics, {})
        return

    from minigpts.exporting import export, onnx_files
    from minigpts.exporting.general_section import Provenance
    from minigpts.reporting import card

    onnx = "onnx" in settings.formats
    config, shapes = checkpoint.load_config(args.model), StoredWeights(args.model).shapes
    if onnx:
        onnx_files.require_buildable(config)
    columns = {
        "parent": artifacts.read_json(args.parent),
        "tuned parent": artifacts.read_json(args.tuned_parent),
        "child": artifacts.read_json(args.child),
    }
    sizes = {name: int(columns[name]["num_parameters"]) for name in ("parent", "child")}
    origin = Provenance(parent.name, parent.version, parent.url, parent.licence, dataset.name, sizes["child"], sizes["parent"])
    planned = plan.read(args.plan)
    wanted = precision.by_group() if planned is None or planned.formats is None else planned.formats
    texts = artifacts.read_table(args.text, ["text"])["text"]
    sources = artifacts.read_json(args.dataset)["sources"].values()
    formats = {name: found for name, found in formats_of(config.model_type, shapes, wanted).items() if found.levels}
    rounded = _rounded(args.model, formats, texts, settings.tokens, machine)
    if settings.scale_tokens and formats:
        from minigpts.training import block_scales, data

        documents = data.read_text(args.train)
        tuned = block_scales.tune_scales(args.model, dict(rounded), *documents, settings.scale_tokens, tuning, machine)
        rounded = iter(tuned.items())
    weights = _weights(args.model, formats, rounded)
    describe = partial(card.render, origin=origin, models=columns, sources=sources, checkpoint=args.model)
    metrics = export.write(args.out, args.model, origin, wanted, weights, describe, onnx)
    artifacts.write_json(args.metrics, metrics)
    print(f"{args.out / metrics['file']}: {metrics['megabytes']:.1f} MB")


def _weights(
    directory: Path, formats: Mapping[str, BlockFormat], rounded: Iterable[tuple[str, Blocks]]
) -> Iterator[tuple[str, torch.Tensor | PackedWeight]]:
    """The checkpoint's tensors one by one, those with a format of blocks as they were rounded."""
    yield from ((name, tensor) for name, tensor in StoredWeights(directory).items() if name not in formats)
    yield from ((name, blocks.packed()) for name, blocks in rounded)


def _rounded(
    directory: Path, formats: Mapping[str, BlockFormat], texts: Sequence[str], num_tokens: int, machine: params.Runtime
) -> Iterator[tuple[str, Blocks]]:
    """The checkpoint's weights that ``formats`` names, rounded for ``num_tokens`` tokens of the texts, one by one."""
    import torch

    from minigpts.model import packing
    from minigpts.model.device import device
    from minigpts.model.families import spec_for
    from minigpts.quantization.layerwise import rounded_weights

    config, tokenizer = checkpoint.load_config(directory), checkpoint.load_fast_tokenizer(directory)
    documents = list(packing.encode_lazily(tokenizer, texts))
    length = min(SEQUENCE_LENGTH, config.max_position_embeddings, sum(map(len, documents)))
    tokens = torch.from_numpy(packing.pack_stream(documents, packing.boundaries(tokenizer, config), length, num_tokens))
    spec = spec_for(config.model_type)
    yield from rounded_weights(StoredWeights(directory), config, spec, formats, tokens.to(device(machine)))


if __name__ == "__main__":
    exit_cleanly(main)
