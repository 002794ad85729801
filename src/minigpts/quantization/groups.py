"""Which weights are rounded alike: the groups that `export` gives a block format each, read off a family's spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from minigpts.model.experts import DOWN, expert_part
from minigpts.model.families import spec_for
from minigpts.model.spec import ArchitectureSpec
from minigpts.model.weights import Shapes
from minigpts.quantization.formats import BlockFormat, fitting

EMBEDDING, QUERY_KEY, VALUE_OUTPUT, MLP_IN, MLP_OUT = GROUPS = ("embedding", "query_key", "value_output", "mlp_in", "mlp_out")

BESIDE_EXPERTS = ("gate_proj", "up_proj", DOWN)  # linear layers of a mixture's shared expert and of its dense layers

MEANINGS = {
    EMBEDDING: "token embedding and lm_head",
    QUERY_KEY: "queries and keys",
    VALUE_OUTPUT: "values and the heads' output",
    MLP_IN: "what makes the MLP neurons",
    MLP_OUT: "what reads the MLP neurons",
}


def group_of(model_type: str, name: str, shape: Sequence[int]) -> str | None:
    """The group of a checkpoint's tensor; None for what is never rounded: norms, biases, positions.

    Queries, keys and values fused in one weight count with the values: what suits those is good enough for the others.
    """
    spec = spec_for(model_type)
    module, _, suffix = name.rpartition(".")
    if suffix != "weight" or len(shape) != 2:
        return None
    if module in (spec.embedding, spec.stored_lm_head):
        return EMBEDDING
    below = module.removeprefix(f"{spec.layers}.").partition(".")[2] if module.startswith(f"{spec.layers}.") else ""
    if below in spec.mlp_in or (below and below == spec.mlp_out):
        return MLP_OUT if below == spec.mlp_out else MLP_IN
    expert = expert_part(spec, f"{below}.{suffix}")
    if expert is not None:
        return MLP_OUT if expert.name.endswith(DOWN) else MLP_IN
    if spec.experts is not None and below.endswith(BESIDE_EXPERTS):
        return MLP_OUT if below.endswith(DOWN) else MLP_IN
    return _attention_group(spec, below)


def row_length(model_type: str, name: str, shape: Sequence[int]) -> int:
    """Weights in a row of a weight as it is rounded: the input features of one output."""
    return shape[0] if spec_for(model_type).is_transposed(name, shape) else shape[1]


def formats_of(model_type: str, shapes: Shapes, wanted: Mapping[str, str]) -> dict[str, BlockFormat]:
    """The format of each weight that is in a group, by name: the group's in ``wanted``, or what its rows fall to."""
    return {
        name: fitting(wanted[group], row_length(model_type, name, shape))
        for name, shape in shapes.items()
        if (group := group_of(model_type, name, shape)) is not None
    }


def _attention_group(spec: ArchitectureSpec, below: str) -> str | None:
    """The group of a linear layer of the attention: queries and keys, or values and what reads the heads. Norms have none."""
    if not below.startswith(tuple(f"{mixer}." for mixer in spec.mixers)) or below.endswith("norm"):
        return None
    return QUERY_KEY if below.endswith((".q_proj", ".k_proj")) else VALUE_OUTPUT
