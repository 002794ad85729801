"""The groups of a model's tensors that share a block format: what a plan chooses bits for. No torch here."""

from __future__ import annotations

from minigpts.model.spec import ArchitectureSpec
from minigpts.model.weights import Shapes

# Token embedding and output head; queries and keys (and values, where one layer makes all three); values and what reads the
# heads; what makes the MLP's neurons; what reads them.
GROUPS = ("embedding", "query_key", "value_output", "mlp_in", "mlp_out")
VALUE = "v_proj"  # the last name of a linear layer that makes values alone, in every family that has one


def group_of(spec: ArchitectureSpec, name: str, shape: tuple[int, ...]) -> str | None:
    """The group of a stored tensor; None for what is never rounded: norms, biases, positions, projections around the decoder."""
    module, _, kind = name.rpartition(".")
    if len(shape) != 2 or kind != "weight":
        return None
    if module in (spec.embedding, spec.stored_lm_head):
        return "embedding"
    if not name.startswith(f"{spec.layers}."):
        return None
    inner = module.removeprefix(f"{spec.layers}.").partition(".")[2]
    if inner in spec.mlp_in or inner == spec.mlp_out:
        return "mlp_out" if inner == spec.mlp_out else "mlp_in"
    return "value_output" if inner == spec.attention_out or inner.endswith(VALUE) else "query_key"


def grouped(spec: ArchitectureSpec, shapes: Shapes) -> dict[str, str]:
    """The group of every tensor that has one, by name."""
    found = {name: group_of(spec, name, shape) for name, shape in shapes.items()}
    return {name: group for name, group in found.items() if group is not None}


def row_length(spec: ArchitectureSpec, name: str, shape: tuple[int, ...]) -> int:
    """Weights in a row of a grouped tensor as a file stores it: the layer's input features."""
    return shape[spec.input_axis] if name.startswith(f"{spec.layers}.") else shape[1]
