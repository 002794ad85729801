"""The tuned checkpoint as ONNX, in the layout that onnxruntime-genai and Transformers.js both load.

onnxruntime-genai's model builder writes the graph; weights are rounded to eight bits in blocks of 32 (``MatMulNBits``). The
builder's four bits lose too much: docs/experiments/rounding.md has the figures.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from minigpts import artifacts
from minigpts.errors import UserError, blaming
from minigpts.model import checkpoint
from minigpts.model.weights import WEIGHTS

if TYPE_CHECKING:
    from onnx import GraphProto
    from transformers import PreTrainedConfig

PACKAGES = ("onnxruntime_genai", "onnxruntime", "onnx", "onnx_ir")
FILE = "onnx/model_quantized.onnx"  # the name that Transformers.js has for eight bits
BLOCK_SIZE = 32
# Windows of the builder's own kind expect a cache of the window's size, which only onnxruntime-genai keeps. It shares an
# embedding with the lm_head in four bits or none, so in eight that is done here.
OPTIONS = ["hf_token=false", "windowed_kv_cache=false", "shared_embeddings=false", f"block_size={BLOCK_SIZE}"]
HEAD_MULTIPLE = 16  # onnxruntime's attention rotates so many of a head's dimensions at a time

# The families whose graph computes what transformers does, and the rotary scalings that it holds for each. The builder takes
# others too, and silently computes something else.
ROPE_TYPES = {
    "llama": ("default", "llama3"),
    "mistral": ("default", "linear"),
    "qwen2": ("default", "linear"),
    "qwen3": ("default", "linear"),
    "gemma2": ("default",),
    "phi": ("default",),
    "phi3": ("default",),
}


def require_buildable(config: PreTrainedConfig) -> None:
    """Raise a UserError, in one line, unless the builder is installed and makes a faithful graph of a model with this config."""
    if any(find_spec(package) is None for package in PACKAGES):
        raise UserError("params.yaml: export.formats: onnx needs onnxruntime-genai; pip install -e '.[onnx]'")
    reason = _obstacle(config)
    if reason is not None:
        raise UserError(f"export: onnxruntime-genai's model builder {reason}; set export.formats: [gguf]")


def _obstacle(config: PreTrainedConfig) -> str | None:
    """Why the builder can't make a faithful graph, as what follows its name in a sentence; None where it can."""
    family = config.model_type
    if family not in ROPE_TYPES:
        return f"has no faithful graph for {family}, only for {', '.join(ROPE_TYPES)}"
    if getattr(config, "intermediate_sizes", None) is not None:
        return "has one MLP width for all layers (prune_neurons.allocation: uniform)"
    rope = config.rope_parameters
    if rope["rope_type"] not in ROPE_TYPES[family]:
        return f"has no faithful rotary scaling '{rope['rope_type']}' for {family}"
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rotated = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    if head_dim % HEAD_MULTIPLE or rotated % HEAD_MULTIPLE:
        return f"needs heads that rotate a multiple of {HEAD_MULTIPLE} dimensions, not {rotated} of {head_dim}"
    if getattr(config, "qk_layernorm", False):
        return "can't hold qk_layernorm: True"
    return None


def write(folder: Path, directory: Path) -> float:
    """Write the checkpoint in ``directory`` into ``folder`` as ONNX, and return the megabytes (10^6 bytes) of its weights.

    Besides :data:`FILE` and its weights these are ``genai_config.json``, ``config.json``, the tokenizer's files and
    ``generation_config.json``. The builder holds the whole model in memory. Raises UserError where the builder fails.
    """
    import onnx

    config = checkpoint.load_config(directory)
    with TemporaryDirectory(dir=folder) as scratch:
        built = _build(Path(scratch), directory, config)
        model = onnx.load(built / "model.onnx")
        genai = artifacts.read_json(built / "genai_config.json")
    _number_cache_dimension(model.graph, genai["model"]["decoder"]["head_size"])
    if config.tie_word_embeddings and config.hidden_size % BLOCK_SIZE == 0:
        _share_embedding(model.graph)

    path = folder / FILE
    path.parent.mkdir()
    weights = path.with_name(f"{path.name}_data")  # as Transformers.js expects it
    onnx.save(model, path, save_as_external_data=True, location=weights.name)
    genai["model"]["decoder"]["filename"] = FILE
    _write_json(folder / "genai_config.json", genai)
    fields = artifacts.read_json(directory / "config.json")
    loading = {"dtype": "q8", "use_external_data_format": True}
    _write_json(folder / "config.json", {**fields, "transformers.js_config": loading})
    for name in checkpoint.COMPANIONS:
        if (directory / name).exists():
            shutil.copyfile(directory / name, folder / name)
    template = folder / "chat_template.jinja"
    if template.exists():  # Transformers.js reads it out of the settings alone
        settings = artifacts.read_json(folder / "tokenizer_config.json")
        settings["chat_template"] = template.read_text(encoding="utf-8")
        _write_json(folder / "tokenizer_config.json", settings)
    return (path.stat().st_size + weights.stat().st_size) / 1e6


def _build(scratch: Path, directory: Path, config: PreTrainedConfig) -> Path:
    """The folder below ``scratch`` with what the builder makes of the checkpoint."""
    source, built, cache = (scratch / name for name in ("checkpoint", "built", "cache"))
    source.mkdir()
    for name in (WEIGHTS, *checkpoint.COMPANIONS):
        if (directory / name).exists():
            (source / name).symlink_to((directory / name).resolve())
    fields = artifacts.read_json(directory / "config.json")
    _write_json(source / "config.json", {**fields, **_spelled_out(config)})
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    with blaming(directory, "onnxruntime-genai's model builder failed"), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        from onnxruntime_genai.models.builder import create_model, parse_extra_options

        where = ("", str(source), str(built), "int8", "cpu", str(cache))
        create_model(*where, **parse_extra_options(*where, OPTIONS))
    return built


def _spelled_out(config: PreTrainedConfig) -> dict[str, Any]:
    """What transformers' classes of a family imply and the builder must be told."""
    fields: dict[str, Any] = {}
    if getattr(config, "sliding_window", None) is not None and not hasattr(config, "layer_types"):
        fields["layer_types"] = ["sliding_attention"] * config.num_hidden_layers  # a window without a list is every layer's
    if hasattr(config, "original_max_position_embeddings"):
        fields["original_max_position_embeddings"] = config.max_position_embeddings  # unequal ones mean longrope to it
    return fields


def _number_cache_dimension(graph: GraphProto, head_dim: int) -> None:
    """Write the cache's last dimension, which the builder leaves symbolic, as the number that Transformers.js needs."""
    for value in (*graph.input, *graph.output):
        dimensions = value.type.tensor_type.shape.dim
        if value.name.startswith(("past_key_values.", "present.")):
            dimensions[3].dim_value = head_dim


def _share_embedding(graph: GraphProto) -> None:
    """Read the token embedding from the lm_head's eight bits, in place of a second copy in float32.

    Standard operators do it: ``GatherBlockQuantized`` would, but isn't in the WebAssembly that Transformers.js loads.
    """
    from onnx import TensorProto, helper, numpy_helper

    (lookup,) = (node for node in graph.node if node.op_type == "Gather" and "input_ids" in node.input)
    (head,) = (node for node in graph.node if node.op_type == "MatMulNBits" and node.name.startswith("/lm_head/"))
    (table, ids), (_, codes, scales) = lookup.input, head.input[:3]  # codes (vocabulary, blocks, 32), scales (vocabulary, blocks)
    name = "/model/embed_tokens"
    constants = {"zero": np.float32(128), "last": np.array([-1]), "shape": np.array([0, 0, -1])}
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), f"{name}/{key}") for key, value in constants.items())
    steps = [
        ("Gather", [codes, ids], "codes", {}),
        ("Cast", [f"{name}/codes"], "floats", {"to": TensorProto.FLOAT}),
        ("Sub", [f"{name}/floats", f"{name}/zero"], "steps", {}),
        ("Gather", [scales, ids], "scales", {}),
        ("Unsqueeze", [f"{name}/scales", f"{name}/last"], "column", {}),
        ("Mul", [f"{name}/steps", f"{name}/column"], "blocks", {}),
    ]
    nodes = [helper.make_node(kind, inputs, [f"{name}/{out}"], name=f"{name}/{out}", **extra) for kind, inputs, out, extra in steps]
    nodes.append(helper.make_node("Reshape", [f"{name}/blocks", f"{name}/shape"], lookup.output, name=lookup.name))
    position = list(graph.node).index(lookup)
    graph.node.remove(lookup)
    for node in reversed(nodes):
        graph.node.insert(position, node)
    graph.initializer.remove(next(tensor for tensor in graph.initializer if tensor.name == table))


def _write_json(path: Path, fields: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
