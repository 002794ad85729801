"""MLP widths that differ between layers, for which transformers has no class: they stand in ``config.json`` as
``intermediate_sizes``, and the checkpoint carries a modelling file of its own that ``trust_remote_code=True`` loads.

The file needs torch and transformers, not this package. What resizes the layers there is the very text of the functions here.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn
from transformers.pytorch_utils import Conv1D

from minigpts.errors import UserError
from minigpts.model.families import spec_for
from minigpts.model.spec import ArchitectureSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

FILE = "modeling_minigpts.py"
_TEMPLATE = '''\
"""{stock} with an MLP width for each layer: config.json lists them as `intermediate_sizes`.

Mini-GPTs wrote this file beside the weights it pruned. It needs torch and transformers alone:

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
"""

from torch import nn
from transformers import {stock}
from transformers.pytorch_utils import Conv1D


class Pruned{stock}({stock}):
    """The stock class in everything but the widths."""

    def post_init(self):
        """The stock constructor's last call, which initializes weights where none are loaded: the layers are right before it."""
        set_mlp_widths(
            layers=self.{layers},
            widths=self.config.intermediate_sizes,
            hidden_size=self.config.hidden_size,
            mlp_in={mlp_in},
            mlp_out={mlp_out},
            mlp_in_blocks={mlp_in_blocks},
        )
        super().post_init()


{functions}'''


def resize_mlps(model: PreTrainedModel, spec: ArchitectureSpec, widths: list[int]) -> None:
    """Give each layer of a stock model the MLP width that ``widths`` names; the weights of its MLPs wait to be filled.

    Raises UserError unless ``widths`` are positive numbers, one for each layer.
    """
    layers = model.get_submodule(spec.layers)
    numbers = isinstance(widths, list) and all(isinstance(width, int) and width > 0 for width in widths)
    if not numbers or len(widths) != len(layers):
        raise UserError(f"config.json: intermediate_sizes must list {len(layers)} widths, one for each layer, got {widths}")
    set_mlp_widths(layers, widths, model.config.hidden_size, spec.mlp_in, spec.mlp_out, spec.mlp_in_blocks)


def ship(config: PreTrainedConfig, directory: Path) -> None:
    """Write the modelling file into ``directory`` and name it in ``config``, where ``config`` has ``intermediate_sizes``.

    Where it has none the stock class loads the folder: nothing is written, and what named a file before goes.
    """
    spec = spec_for(config.model_type)
    config.architectures = [_stock_class(spec)]
    if getattr(config, "intermediate_sizes", None) is not None:
        config.architectures = [f"Pruned{_stock_class(spec)}"]
        config.auto_map = {"AutoModelForCausalLM": f"{Path(FILE).stem}.{config.architectures[0]}"}
        (directory / FILE).write_text(source(spec), encoding="utf-8")
    elif hasattr(config, "auto_map"):
        del config.auto_map


def source(spec: ArchitectureSpec) -> str:
    """The text of the modelling file of one family."""
    return _TEMPLATE.format(
        stock=_stock_class(spec),
        layers=spec.layers,
        mlp_in=repr(spec.mlp_in).replace("'", '"'),
        mlp_out=f'"{spec.mlp_out}"',
        mlp_in_blocks=spec.mlp_in_blocks,
        functions="\n\n".join(inspect.getsource(function) for function in (set_mlp_widths, linear_like)),
    )


def _stock_class(spec: ArchitectureSpec) -> str:
    """The class ``AutoModelForCausalLM`` takes for the family, whatever ``config.architectures`` was left at."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[spec.model_type]


# What follows is shipped: it may use nothing that the template doesn't import.


def set_mlp_widths(
    layers: nn.ModuleList, widths: list[int], hidden_size: int, mlp_in: tuple[str, ...], mlp_out: str, mlp_in_blocks: int
) -> None:
    """Give each decoder layer linear layers for its number of neurons; their weights wait to be filled.

    Those named in `mlp_in` make the neurons, in `mlp_in_blocks` blocks of outputs (2: gate and up fused); `mlp_out` reads them.
    """
    for layer, width in zip(layers, widths, strict=True):
        for name in mlp_in:
            layer.set_submodule(name, linear_like(layer.get_submodule(name), hidden_size, mlp_in_blocks * width))
        layer.set_submodule(mlp_out, linear_like(layer.get_submodule(mlp_out), width, hidden_size))


def linear_like(old: nn.Linear | Conv1D, in_features: int, out_features: int) -> nn.Linear | Conv1D:
    """A linear layer of another shape, on the device, in the dtype and with a bias as `old` has."""
    with old.weight.device:
        if isinstance(old, Conv1D):  # GPT-2's linear layers
            new = Conv1D(out_features, in_features)
        else:
            new = nn.Linear(in_features, out_features, bias=old.bias is not None)
    return new.to(old.weight.dtype)
