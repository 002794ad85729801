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
"""{causal} with an MLP width for each layer: config.json lists them as `intermediate_sizes`.

Mini-GPTs wrote this file beside the weights it pruned. It needs torch and transformers alone:

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
"""

from torch import nn
from transformers import {imports}
from transformers.pytorch_utils import Conv1D

NAMES = {{"mlp_in": {mlp_in}, "mlp_out": {mlp_out}, "mlp_in_blocks": {mlp_in_blocks}}}


class Pruned{causal}({causal}):
    """The stock class in everything but the widths."""
{renaming}
    def post_init(self):
        """The stock constructor's last call, which initializes weights where none are loaded: the layers are right before it."""
        set_mlp_widths(self.{layers}, self.config.intermediate_sizes, self.config.hidden_size, **NAMES)
        super().post_init()


class Pruned{bare}({bare}):
    """The decoder alone, for what builds its own head on it, such as vLLM."""

    base_model_prefix = "{prefix}"

    def post_init(self):
        """As above."""
        set_mlp_widths(self.{bare_layers}, self.config.intermediate_sizes, self.config.hidden_size, **NAMES)
        super().post_init()


{functions}'''

# For a family whose head has another name in transformers 4 and in the weights file.
_RENAMING = '''
    @classmethod
    def from_pretrained(cls, *args, **options):
        """The weights file has transformers 4's name of the head."""
        if int(__version__.partition(".")[0]) >= 5:
            options["key_mapping"] = {{r"^{older}\\.": "{lm_head}."}}
        return super().from_pretrained(*args, **options)
'''


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
    causal, bare = _stock_classes(spec)
    config.architectures = [causal]
    if getattr(config, "intermediate_sizes", None) is not None:
        config.architectures = [f"Pruned{causal}"]
        module = Path(FILE).stem
        config.auto_map = {"AutoModelForCausalLM": f"{module}.Pruned{causal}", "AutoModel": f"{module}.Pruned{bare}"}
        (directory / FILE).write_text(source(spec), encoding="utf-8")
    elif hasattr(config, "auto_map"):
        del config.auto_map


def source(spec: ArchitectureSpec) -> str:
    """The text of the modelling file of one family."""
    causal, bare = _stock_classes(spec)
    return _TEMPLATE.format(
        causal=causal,
        imports=", ".join(sorted([causal, bare, *(["__version__"] if spec.older_lm_head else [])])),
        bare=bare,
        layers=spec.layers,
        prefix=spec.layers.partition(".")[0],
        bare_layers=spec.layers.partition(".")[2],
        renaming="" if spec.older_lm_head is None else _RENAMING.format(older=spec.older_lm_head, lm_head=spec.lm_head),
        mlp_in=repr(spec.mlp_in).replace("'", '"'),
        mlp_out=f'"{spec.mlp_out}"',
        mlp_in_blocks=spec.mlp_in_blocks,
        functions="\n\n".join(inspect.getsource(function) for function in (set_mlp_widths, linear_like)),
    )


def _stock_classes(spec: ArchitectureSpec) -> tuple[str, str]:
    """The classes ``AutoModelForCausalLM`` and ``AutoModel`` take for the family, whatever ``config.architectures`` says."""
    from transformers.models.auto import modeling_auto

    names = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, modeling_auto.MODEL_MAPPING_NAMES
    return names[0][spec.model_type], names[1][spec.model_type]


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
