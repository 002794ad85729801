import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from minigpts.model import checkpoint
from minigpts.model.weights import StoredWeights
from tests import tiny
from tests.compat.children import VARIANTS

ANEW = ("dtype", "rope_parameters")  # what transformers 5 calls otherwise than 4


@pytest.mark.parametrize("name", VARIANTS)
def test_a_reader_that_knows_the_older_fields_alone_gets_the_same_model(name, tmp_path):
    """`make compat` asks transformers 4 itself; here 5 reads what it would read of a checkpoint from before its time."""
    family, changes = VARIANTS[name]
    folder = tiny.write_checkpoint(tmp_path / "model", family, **changes)
    ids, written = torch.arange(3, 51)[None], json.loads((folder / "config.json").read_text())
    with torch.no_grad():
        logits = checkpoint.load_model(folder, torch.float32)(ids).logits
        older = {field: value for field, value in written.items() if field not in ANEW}
        (folder / "config.json").write_text(json.dumps(older))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        assert torch.equal(model(ids).logits, logits)
    assert model.dtype == torch.float32


@pytest.mark.parametrize("name", VARIANTS)
def test_loading_and_writing_again_gives_the_same_bytes(name, tmp_path):
    family, changes = VARIANTS[name]
    folder = tiny.write_checkpoint(tmp_path / "model", family, **changes)
    weights = StoredWeights(folder)
    with checkpoint.saving(tmp_path / "again", checkpoint.load_config(folder), weights.items(), companions=folder):
        pass
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes()
