"""Write the tuned child as a file that people run: GGUF for llama.cpp and Ollama, with its Modelfile and model card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from minigpts.quantization.params import Precision

if TYPE_CHECKING:
    import torch

    from minigpts.quantization.formats import PackedWeight

FLAGS = {
    "model": "the tuned checkpoint",
    "plan": "what plan_budget wrote: a plan's formats replace section precision",
    "text": "calibration text, parquet: what rounding is fitted to",
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
    parent = params.read(args.params, ModelSource, "model")
    dataset = params.read(args.params, Settings, "dataset")
    if not settings.formats:
        with artifacts.replacing(args.out) as folder:
            folder.mkdir()
            artifacts.write_json(folder / checkpoint.SKIPPED, {"formats": []})
        artifacts.write_json(args.metrics, {})
        return

    from minigpts.exporting import export
    from minigpts.exporting.general_section import Provenance
    from minigpts.reporting import card

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
    weights = _rounded(args.model, wanted, texts, settings, machine)
    describe = partial(card.render, origin=origin, models=columns, sources=sources, checkpoint=args.model)
    metrics = export.write(args.out, args.model, origin, wanted, weights, describe)
    artifacts.write_json(args.metrics, metrics)
    print(f"{args.out / metrics['file']}: {metrics['megabytes']:.1f} MB")


def _rounded(
    directory: Path, wanted: Mapping[str, str], texts: Sequence[str], settings: Params, machine: params.Runtime
) -> Iterator[tuple[str, torch.Tensor | PackedWeight]]:
    """The checkpoint's tensors one by one, those of a group rounded into its format."""
    import torch

    from minigpts.model import packing
    from minigpts.model.device import device
    from minigpts.model.families import spec_for
    from minigpts.model.weights import StoredWeights
    from minigpts.quantization.groups import formats_of
    from minigpts.quantization.layerwise import rounded_weights

    config, stored = checkpoint.load_config(directory), StoredWeights(directory)
    formats = {name: found for name, found in formats_of(config.model_type, stored.shapes, wanted).items() if found.levels}
    yield from ((name, tensor) for name, tensor in stored.items() if name not in formats)
    tokenizer = checkpoint.load_fast_tokenizer(directory)
    documents = list(packing.encode_lazily(tokenizer, texts))
    length = min(SEQUENCE_LENGTH, config.max_position_embeddings, sum(map(len, documents)))
    around = packing.boundaries(tokenizer, config)
    tokens = torch.from_numpy(packing.pack_stream(documents, around, length, settings.tokens))
    spec = spec_for(config.model_type)
    for name, blocks in rounded_weights(stored, config, spec, formats, tokens.to(device(machine))):
        yield name, blocks.packed()


if __name__ == "__main__":
    exit_cleanly(main)
