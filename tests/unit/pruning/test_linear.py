"""Which neurons the marks silence, and where the zeros fall, when projections are fused, biased or lie the other way round."""

import pytest
import torch

from minigpts.model.families import spec_for
from minigpts.pruning import linear

WIDTH = 4
NEURONS = torch.eye(WIDTH, dtype=torch.bool)  # row j marks neuron j


def nothing(outputs: int, inputs: int) -> linear.LinearMarks:
    return linear.LinearMarks(*(torch.zeros(size, dtype=torch.bool) for size in (outputs, outputs, inputs)))


def marked(rows: torch.Tensor, biases: torch.Tensor, columns: torch.Tensor, family: str) -> dict[str, linear.LinearMarks]:
    """Layer 2 of a family with one MLP input, whose marks are ``rows`` and ``biases``; ``columns`` are the output's."""
    spec = spec_for(family)
    made = linear.LinearMarks(rows, biases, torch.zeros(3, dtype=torch.bool))
    read = linear.LinearMarks(*(torch.zeros(3, dtype=torch.bool),) * 2, columns)
    return {spec.layer(2, spec.mlp_in[0]): made, spec.layer(2, spec.mlp_out): read}


def test_a_fused_neuron_is_silent_by_its_gate_its_up_or_its_reader():
    spec = spec_for("phi3")
    rows = torch.cat([NEURONS[0], NEURONS[1]])  # [gate | up]
    found = linear.removable_neurons(marked(rows, rows, NEURONS[2], "phi3"), set(), spec, 2)
    assert found.tolist() == [True, True, True, False]


@pytest.mark.parametrize("biased", [True, False])
def test_a_neuron_whose_bias_stays_is_not_silent(biased: bool):
    spec = spec_for("opt")
    names = {f"{spec.layer(2, 'fc1')}.bias"} if biased else set()
    marks = marked(NEURONS[0] | NEURONS[1], NEURONS[1], NEURONS[2], "opt")
    assert linear.removable_neurons(marks, names, spec, 2).tolist() == [not biased, True, True, False]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_zeros_fall_on_rows_and_columns_whichever_way_the_weight_lies(family: str):
    spec = spec_for(family)
    mark = linear.LinearMarks(torch.tensor([True, False]), torch.tensor([False, False]), torch.tensor([False, False, True]))
    weight = torch.ones(3, 2) if spec.transposed else torch.ones(2, 3)
    zeroed = linear.zeroed({"m.weight": weight, "m.bias": torch.ones(2), "other": weight}, {"m": mark}, spec)
    as_linear = zeroed["m.weight"].T if spec.transposed else zeroed["m.weight"]
    assert as_linear.tolist() == [[0, 0, 0], [1, 1, 0]]
    assert zeroed["m.bias"].tolist() == [1, 1]
    assert zeroed["other"] is weight
    assert linear.num_nonzero(zeroed) == 2 + 2 + 6


def test_marks_of_a_layer_are_not_those_of_one_whose_number_begins_alike():
    every = {f"model.layers.{index}.mlp.down_proj": nothing(3, WIDTH) for index in (1, 11)}
    assert list(linear.of_layer(every, spec_for("llama"), 1)) == ["mlp.down_proj"]
    assert linear.of_layer(every, spec_for("llama"), 1)["mlp.down_proj"] is every["model.layers.1.mlp.down_proj"]
