"""Training with our loss and our data is a plain Trainer's training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Trainer

from benchmarks.ratios.finetuning import padded
from minigpts.model import checkpoint, packing
from minigpts.model.families import spec_for
from minigpts.params import Runtime
from minigpts.training import trainer
from minigpts.training.data import PackedSequences, collate, draw_sequences
from minigpts.training.recipe import Parent, Recipe
from minigpts.training.trainer import FusedTrainer, set_trainable, training_arguments
from minigpts.vocabulary.embeddings import vocabulary_tensors
from tests import tiny

RECIPE = Recipe(
    learning_rate=1e-3,
    weight_decay=0.01,
    warmup_share=0.1,
    batch_size=4,
    sequence_length=60,
    max_tokens=20 * 240,
    max_epochs=200,
    stop="budget",
    patience=1,
    evaluations=2,
    seed=0,
    distillation=0.0,
    teacher="base",
    freeze_embeddings=False,
    lora_rank=0,
    general=None,
    general_share=0.0,
)


def _train(cls, folder, scratch, collator, batch_tokens=4096, frozen=False):
    model = checkpoint.load_model(folder, torch.float32)
    set_trainable(model, replace(RECIPE, freeze_embeddings=frozen))
    texts = tiny.sentences(100)
    tokenizer = checkpoint.load_fast_tokenizer(folder)
    rows, _ = draw_sequences(tokenizer, texts, packing.boundaries(tokenizer, model.config), RECIPE)
    steps = RECIPE.steps(len(rows) * RECIPE.sequence_length)
    arguments = training_arguments(RECIPE, Runtime(batch_tokens, None, None), steps, scratch)
    arguments.logging_strategy, arguments.logging_steps = "steps", 1
    data = PackedSequences(rows, steps * RECIPE.batch_size, RECIPE.seed)
    trainer = cls(model, arguments, data_collator=collator, train_dataset=data)
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row], checkpoint.weights_of(model, torch.float32)


@pytest.mark.parametrize(("family", "frozen"), [("llama", False), ("llama", True), ("opt", False), ("lfm2", False)])
def test_twenty_steps_give_a_plain_trainers_losses_and_weights(tmp_path, monkeypatch, family, frozen):
    monkeypatch.setattr("minigpts.training.trainer.has_bf16", lambda: False)  # whose rounding would hide a difference
    folder = tiny.write_checkpoint(tmp_path / "model", family)
    expected, expected_weights = _train(Trainer, folder, tmp_path, padded, frozen=frozen)
    for batch_tokens in (4096, 2 * RECIPE.sequence_length):  # whole batches, and halves with accumulated gradients
        losses, weights = _train(FusedTrainer, folder, tmp_path, collate, batch_tokens, frozen)
        assert len(losses) == 20 and losses[-1] < losses[0]
        np.testing.assert_allclose(losses, expected, rtol=1e-5)
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, expected_weights[name], rtol=0, atol=2e-4, msg=name)


@pytest.mark.parametrize("family", ["llama", "phi", "opt"])  # tied, untied with a bias, tied
def test_frozen_embeddings_stay_to_the_bit_and_all_else_is_tuned(tmp_path, family):
    folder = tiny.write_checkpoint(tmp_path / "model", family)
    before = checkpoint.weights_of(checkpoint.load_model(folder, torch.float32), torch.float32)
    _, after = _train(FusedTrainer, folder, tmp_path, collate, frozen=True)
    frozen = vocabulary_tensors(spec_for(family)) & before.keys()
    assert {name for name, tensor in after.items() if torch.equal(tensor, before[name])} == frozen


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU steps are bf16")
def test_a_cpu_that_multiplies_bf16_tunes_in_fp32_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True, "avx512_bf16": True}, raising=False)
    assert not training_arguments(RECIPE, Runtime(4096, None, None), 20, tmp_path).bf16


@pytest.mark.parametrize("rank", [0, 3])
def test_a_guarded_run_that_did_harm_is_its_best_weights_again(tmp_path, monkeypatch, rank):
    """Ruined by a rate far too high; gone back at a rate of 0, every later point is the one before tuning, to the bit."""
    monkeypatch.setattr(trainer, "FALL", 0.0)
    folder = tiny.write_checkpoint(tmp_path / "model", dtype=torch.bfloat16)
    tokenizer, config = checkpoint.load_fast_tokenizer(folder), checkpoint.load_config(folder)
    recipe = replace(RECIPE, learning_rate=3.0, warmup_share=0.0, max_tokens=6 * 240, evaluations=3, lora_rank=rank)
    rows, _ = draw_sequences(tokenizer, tiny.sentences(100), packing.boundaries(tokenizer, config), recipe)

    def curve(guarded):
        watched = trainer.Validation(tokenizer, tiny.sentences(6, seed=5), 64, Parent(1.0))
        model = checkpoint.load_model(folder, torch.float32)
        state = tmp_path / f"guarded-{guarded}"
        how = {"recipe": recipe, "runtime": Runtime(4096, 1, None), "dtype": torch.bfloat16, "state": state, "guarded": guarded}
        return [point.validation_bits_per_byte for point in trainer.recover(model, rows, watched, **how).curve]

    before, harmed, *others = curve(guarded=True)
    assert harmed > before and others == [before, before]
    unguarded = curve(guarded=False)
    assert unguarded[:2] == [before, harmed] and before not in unguarded[2:]


def test_every_epoch_is_a_new_order_of_all_sequences():
    ids = np.arange(7)[:, None, None]
    data = PackedSequences(ids, 17, seed=3)
    order = [int(data[index]) for index in range(len(data))]
    first, second, rest = order[:7], order[7:14], order[14:]
    assert len(order) == 17 and sorted(first) == sorted(second) == list(range(7)) and first != second and len(set(rest)) == 3
    assert [int(row) for row in PackedSequences(ids, 17, seed=3)][:17] == order
    assert PackedSequences(ids, 17, seed=4).order.tolist() != order
