"""From statistics to scores and kept neurons: which the criteria rank lowest, within a layer and across layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from minigpts.errors import UserError
from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from minigpts.model.weights import StoredWeights, write_tensors
from minigpts.profiling.gradients import taylor_sums
from minigpts.profiling.recorder import profile
from minigpts.profiling.statistics import Statistics
from minigpts.pruning import allocation, heads, neurons
from minigpts.pruning.slicing import AttentionShape
from stages import prune_neurons
from tests import tiny

TOKENS = torch.randint(0, 300, (4, 40), generator=torch.Generator().manual_seed(1))
SPEC = spec_for("llama")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_checkpoint(tmp_path_factory.mktemp("parent") / "model", "llama")


@pytest.fixture(scope="module")
def statistics(folder: Path) -> dict[str, Tensor]:
    model = checkpoint.load_model(folder, torch.float32)
    return profile(model, SPEC, TOKENS) | taylor_sums(model, SPEC, TOKENS)


@pytest.mark.parametrize("criterion", ["wanda", "taylor"])
def test_adaptive_takes_the_lowest_of_all_layers_on_one_scale(folder: Path, statistics: dict[str, Tensor], criterion: str):
    found = neurons.scores(StoredWeights(folder), SPEC, Statistics(statistics), criterion, seed=0)
    widths = neurons.widths_of_sum(found, [0, 1, 2], 3 * 77 - 60, allocation="adaptive", multiple_of=1)
    kept = allocation.keep_highest(found.scores, widths)
    pooled = torch.stack(found.scores)  # (3, 77)
    if criterion == "taylor":
        assert torch.equal(pooled, torch.stack([statistics[f"layers.{index}.mlp.taylor_sum"] for index in range(3)]) / 160)
    else:
        pooled = (pooled - pooled.mean(1, keepdim=True)) / pooled.std(1, correction=0, keepdim=True)
    expected = (pooled > pooled.flatten().sort().values[59]).nonzero()
    assert [row.tolist() for row in kept] == [expected[expected[:, 0] == index, 1].tolist() for index in range(3)]
    assert len({len(row) for row in kept}) > 1


def test_groups_are_scored_by_their_query_heads(folder: Path, statistics: dict[str, Tensor]):
    attention = AttentionShape.of(checkpoint.load_config(folder))
    stored = StoredWeights(folder)
    by_output, by_loss = (
        heads.scores(stored, SPEC, attention, Statistics(statistics), criterion) for criterion in ("wanda", "taylor")
    )
    for index in range(3):
        sums = statistics[f"layers.{index}.heads.taylor_sum"]
        torch.testing.assert_close(by_loss[index], torch.stack([sums[0] + sums[1], sums[2] + sums[3]]) / TOKENS.numel())
        weight = stored[f"model.layers.{index}.self_attn.o_proj.weight"].double().view(40, 4, 10)
        outputs = weight.square().sum((0, 2)) * statistics[f"layers.{index}.heads.square_sum"] / TOKENS.numel()
        torch.testing.assert_close(by_output[index], outputs.view(2, 2).sum(1).sqrt(), rtol=1e-5, atol=0)


def test_taylor_is_refused_before_anything_is_written(folder: Path, statistics: dict[str, Tensor], tmp_path: Path):
    params = yaml.safe_load((Path(__file__).parents[3] / "params.yaml").read_text(encoding="utf-8"))
    params["prune_neurons"] |= {"criterion": "taylor", "layers": 0}  # the tiny model keeps its three
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    plain = {name: value for name, value in statistics.items() if not name.endswith("taylor_sum")}
    write_tensors(tmp_path / "stats.safetensors", plain)
    before = sorted(tmp_path.iterdir())
    paths = {"model": folder, "stats": tmp_path / "stats.safetensors", "text": tmp_path / "no.parquet", "out": tmp_path / "out"}
    paths |= {"metrics": tmp_path / "m.json", "widths": tmp_path / "w.csv", "params": tmp_path / "params.yaml"}
    with pytest.raises(UserError, match=r"criterion taylor needs profile\.gradient_tokens > 0"):
        prune_neurons.main([text for name, path in paths.items() for text in (f"--{name}", str(path))])
    assert sorted(tmp_path.iterdir()) == before
