"""The best plans, each really made, tuned on a little text and rounded: the order before tuning isn't the order after it."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from minigpts.budget import rounding
from minigpts.budget.curves import Damage
from minigpts.budget.damage import DamageMeter
from minigpts.model.families import spec_for
from minigpts.model.packing import Spans, boundaries
from minigpts.params import Runtime
from minigpts.pruning.params import ByPlan
from minigpts.training import data, probe, trainer
from minigpts.training.recipe import Recipe

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Tuning:
    """How trials are tuned."""

    tokens: int  # of the training text; 0: no trials
    texts: Sequence[str]  # the training text,
    spans: Sequence[Spans | None]  # and which of its characters are targets
    recipe: Recipe  # the run's, of which a trial is a short one
    runtime: Runtime


def before_tuning(meter: DamageMeter, cut: ByPlan, num_counted: int, formats: Mapping[str, str] | None) -> Damage:
    """What a whole plan costs untuned: cut, refitted, its tokens removed, and rounded where there are ``formats`` by group."""
    return _rounded_damage(meter, *meter.child(cut, num_counted), formats)


def after_tuning(meter: DamageMeter, tuning: Tuning, cut: ByPlan, num_counted: int, formats: Mapping[str, str] | None) -> Damage:
    """The same after ``tuning.tokens`` tokens: below 0 where little tuning gains more than the plan costs."""
    model, tokenizer = meter.child(cut, num_counted)
    recipe = _short(tuning, model)
    sequences, _ = data.draw_sequences(tokenizer, tuning.texts, boundaries(tokenizer, model.config), recipe, spans=tuning.spans)
    trainer.set_trainable(model, recipe)
    with TemporaryDirectory() as state:
        probe.train(model, sequences, recipe, tuning.runtime, Path(state), recipe.steps(sequences[:, 0].size))
    gc.collect()  # a Trainer is a cycle, and holds the model's size four times over
    model.requires_grad_(False)
    return _rounded_damage(meter, model, tokenizer, formats)


def _short(tuning: Tuning, model: PreTrainedModel) -> Recipe:
    """The run's recipe on the trial's tokens alone, of all weights, at the rate that its own search for one begins with."""
    recipe, layers = tuning.recipe, spec_for(model.config.model_type).layers
    rate = None if recipe.lora_rank else recipe.learning_rate  # adapters have rates of their own
    if rate is None:
        rate = probe.starting_rate(dict(model.named_parameters()), layers)
    tokens = max(tuning.tokens, recipe.tokens_per_step)
    own = replace(recipe, distillation=0.0, general=None, general_share=0.0)
    return replace(own, learning_rate=rate, lora_rank=0, max_tokens=tokens)


def _rounded_damage(meter: DamageMeter, model: PreTrainedModel, tokenizer: Tokenizer, formats: Mapping[str, str] | None) -> Damage:
    if formats is not None:
        rounding.round_in_place(model, formats, meter.tokens(model.config, tokenizer))
    return meter.damage_of(model.eval(), tokenizer)
