"""Write the tuned child as a file that people run: GGUF for llama.cpp and Ollama, with its Modelfile and model card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from minigpts import artifacts, params
from minigpts.corpus.settings import Settings
from minigpts.errors import exit_cleanly
from minigpts.importing.source import ModelSource
from minigpts.model import checkpoint
from minigpts.quantization.formats import format_of
from minigpts.quantization.groups import GROUPS

if TYPE_CHECKING:
    import torch

    from minigpts.quantization.formats import PackedWeight

FLAGS = {
    "model": "the tuned checkpoint",
    "parent": "metrics of the parent, for the card",
    "child": "metrics of the checkpoint, for the card",
    "tuned-parent": "metrics of the tuned parent, for the card; empty where it wasn't tuned",
    "dataset": "metrics of the data set: its sources and their licences",
    "out": "folder to write",
    "metrics": "json to write",
}


@dataclass(frozen=True)
class Params:
    """The ``export`` section."""

    formats: tuple[Literal["gguf"], ...]  # files to write; an empty list writes none
    # Block formats by tensor group; a weight whose rows are no multiple of the block falls to F16.
    embedding: str  # token embedding and lm_head
    query_key: str  # what makes queries and keys
    value_output: str  # what makes values and what reads the heads; also queries, keys and values in one weight
    mlp_in: str  # what makes the MLP neurons
    mlp_out: str  # what reads them

    def __post_init__(self) -> None:
        """Refuse a format that isn't known."""
        for group in GROUPS:
            format_of(getattr(self, group))


def main(argv: Sequence[str] | None = None) -> None:
    """Export, or leave a note that nothing was to be."""
    args = params.flags(argv, __doc__, FLAGS)
    settings = params.read(args.params, Params, "export")
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

    columns = {
        "parent": artifacts.read_json(args.parent),
        "tuned parent": artifacts.read_json(args.tuned_parent),
        "child": artifacts.read_json(args.child),
    }
    sizes = {name: int(columns[name]["num_parameters"]) for name in ("parent", "child")}
    origin = Provenance(parent.name, parent.version, parent.url, parent.licence, dataset.name, sizes["child"], sizes["parent"])
    wanted = {group: asdict(settings)[group] for group in GROUPS}
    sources = artifacts.read_json(args.dataset)["sources"].values()
    metrics = export.write(args.out, args.model, origin, wanted, _rounded(args.model, wanted), columns, sources)
    artifacts.write_json(args.metrics, metrics)
    print(f"{args.out / metrics['file']}: {metrics['megabytes']:.1f} MB; talk to it: llama-cli -m {args.out / metrics['file']}")


def _rounded(directory: Path, wanted: Mapping[str, str]) -> Iterator[tuple[str, torch.Tensor | PackedWeight]]:
    """The checkpoint's tensors one by one, those of a group rounded into its format."""
    from minigpts.model.families import spec_for
    from minigpts.model.weights import StoredWeights
    from minigpts.quantization.groups import formats_of
    from minigpts.quantization.rounding import packed

    config, stored = checkpoint.load_config(directory), StoredWeights(directory)
    formats = formats_of(config.model_type, stored.shapes, wanted)
    for name, tensor in stored.items():
        if name in formats and formats[name].block > 1:
            transposed = spec_for(config.model_type).is_transposed(name, tensor.shape)
            yield name, packed(tensor.T if transposed else tensor, formats[name])
        else:
            yield name, tensor


if __name__ == "__main__":
    exit_cleanly(main)
