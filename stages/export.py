"""Write the tuned child as a file that people run: GGUF for llama.cpp and Ollama, with its Modelfile and model card, and ONNX."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from minigpts import artifacts, params
from minigpts.budget import plan
from minigpts.corpus.settings import Settings
from minigpts.errors import exit_cleanly
from minigpts.exporting.params import SEQUENCE_LENGTH, ExportParams
from minigpts.importing.source import ModelSource
from minigpts.model import checkpoint
from minigpts.model.weights import StoredWeights, num_parameters
from minigpts.quantization.groups import formats_of
from minigpts.quantization.params import Precision
from minigpts.training.recipe import Recipe

if TYPE_CHECKING:
    from minigpts.quantization.blocks import Blocks
    from minigpts.quantization.formats import BlockFormat

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
    metrics = {"parent": args.parent, "tuned parent": args.tuned_parent, "child": args.child}
    columns = {name: artifacts.read_json(path) for name, path in metrics.items()}
    sizes = {name: int(columns[name]["num_parameters"]) for name in ("parent", "child")}
    origin = Provenance(parent.name, parent.version, parent.url, parent.licence, dataset.name, sizes["child"], sizes["parent"])
    sources = artifacts.read_json(args.dataset)["sources"].values()
    planned = plan.read(args.plan)
    wanted = precision.by_group() if planned is None or planned.formats is None else planned.formats
    formats = {name: found for name, found in formats_of(config.model_type, shapes, wanted).items() if found.levels}
    weights = export.packed(args.model, formats, _rounded(args, formats, settings, tuning, machine))
    describe = partial(card.render, origin=origin, models=columns, sources=sources, checkpoint=args.model)
    described = export.write(args.out, args.model, origin, wanted, weights, describe, onnx)
    artifacts.write_json(args.metrics, described)
    print(f"{args.out / described['file']}: {described['megabytes']:.1f} MB")


def _rounded(
    args: argparse.Namespace, formats: Mapping[str, BlockFormat], settings: Params, tuning: Recipe, machine: params.Runtime
) -> Iterable[tuple[str, Blocks]]:
    """The weights that ``formats`` names, rounded to the calibration text and their scales tuned on the training text."""
    from minigpts.model.device import device, require_memory
    from minigpts.quantization.layerwise import rounded_checkpoint
    from minigpts.training import block_scales, data

    where, tuned = device(machine), settings.scale_tokens and formats
    if tuned:
        whole = block_scales.WEIGHT_BYTES * num_parameters(StoredWeights(args.model).shapes)
        require_memory(whole, where, "tuning the blocks' scales", "set export.scale_tokens to 0")
    texts = artifacts.read_table(args.text, ["text"])["text"]
    rounded = rounded_checkpoint(args.model, formats, texts, SEQUENCE_LENGTH, settings.tokens, where)
    if not tuned:
        return rounded
    train, spans = data.read_text(args.train)
    return block_scales.tune_scales(args.model, dict(rounded), train, spans, settings.scale_tokens, tuning, machine).items()


if __name__ == "__main__":
    exit_cleanly(main)
