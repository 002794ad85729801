"""The reader knows what the recorder and the gradients write, and reads numpy's arrays as it reads torch's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from minigpts.model.weights import read_arrays, write_tensors
from minigpts.profiling.gradients import taylor_sums
from minigpts.profiling.recorder import profile
from minigpts.profiling.statistics import LINEAR_SUMS, Statistics
from tests import tiny

TOKENS = torch.randint(0, 300, (7, 33), generator=torch.Generator().manual_seed(0))


def test_equation_1_is_the_mean_over_the_tokens():
    # Activations 0.2, -0.1 and 0.0 of one neuron: the paper's own example of its normalized L1 norm.
    found = Statistics({"count": np.int64(3), "layers.0.mlp.abs_sum": np.array([0.3])})
    np.testing.assert_allclose(found.mean_abs_by_layer(), [[0.1]])
    assert found.gradient_count == 0 and found.taylor(0) is None and found.linear_modules == []


def test_everything_that_profiling_writes_is_read(tmp_path: Path):
    model, spec = checkpoint.load_model(tiny.write_checkpoint(tmp_path / "model"), torch.float32), spec_for("llama")
    sums = profile(model, spec, TOKENS, all_linear=True) | taylor_sums(model, spec, TOKENS[:2])
    write_tensors(tmp_path / "stats.safetensors", sums)
    found, arrays = Statistics(sums), Statistics(read_arrays(tmp_path / "stats.safetensors"))
    assert (found.count, found.gradient_count, found.num_layers) == (7 * 33, 2 * 33, 3)
    read = {"count", "gradient_count"}
    for index in range(3):
        assert (found.width(index), found.num_heads(index)) == (77, 4)
        values = {
            "mlp.abs_sum": found.mean_abs(index) * found.count,
            "mlp.sum": found.mean(index) * found.count,
            "mlp.square_sum": found.mean_square(index) * found.count,
            "mlp.taylor_sum": found.taylor(index) * found.gradient_count,
            "heads.square_sum": found.heads(index),
            "heads.taylor_sum": found.heads_taylor(index),
            "block.cosine_sum": (1 - found.block_influence(index)) * found.count,
        }
        for name, value in values.items():
            torch.testing.assert_close(value, sums[f"layers.{index}.{name}"])
            read.add(f"layers.{index}.{name}")
        np.testing.assert_array_equal(arrays.mean_abs_by_layer()[index], found.mean_abs(index).numpy())
    for module in found.linear_modules:
        for of in LINEAR_SUMS:
            torch.testing.assert_close(found.linear_mean_abs(module, of) * found.count, sums[f"linear.{module}.{of}_abs_sum"])
            read.add(f"linear.{module}.{of}_abs_sum")
    assert read == sums.keys()


def test_the_reader_needs_no_torch():
    code = "import sys, minigpts.profiling.statistics; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": "src"})
