"""What this machine takes for one decoder layer of the parent's shape and for its head, measured with the pipeline's own code."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from minigpts.evaluation.speech.generation import CPU_ROWS, generate
from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from minigpts.model.forward import document_mask, head_of, last_hidden_states, log_likelihoods
from minigpts.model.loss import fused_loss
from minigpts.params import Runtime
from minigpts.pruning.ridge import refit_projection
from minigpts.quantization.formats import FORMATS
from minigpts.quantization.rounding import Cost, rounded
from minigpts.training.recipe import Recipe
from minigpts.training.trainer import BETA1, set_trainable

LENGTH, ROWS = 256, 4  # of the forward that is timed
PROMPT, FEW, MORE = 16, 2, 6  # tokens of the prompts of the generation that is timed, and of its two replies
SEQUENCES = 9  # that a refit is timed on: the eighth is held back, as in all longer text,
FEW_TOKENS, MORE_TOKENS = 16, 64  # of each
HEAD_ROWS = 1024  # of the embedding, that are rounded
TIMED_FORMAT = "IQ4_NL"


@dataclass(frozen=True)
class Part:
    """Seconds for one layer and for what is outside the layers."""

    layer: float
    head: float

    def __call__(self, layers: float) -> float:
        """Seconds for a model of so many layers."""
        return layers * self.layer + self.head


@dataclass(frozen=True)
class Costs:
    """Seconds."""

    forward: Part  # a token
    step: Part  # a token of tuning, the optimizer included
    decode: Part  # a token of each of CPU_ROWS replies
    refit_token: float  # a token that a layer's output projection is refitted on,
    refit: float  # and what a refit takes besides
    rounded_layer: float  # a layer's weights
    rounded_row: float  # a row of embedding or head


def measure(folder: Path, recipe: Recipe, runtime: Runtime, where: torch.device) -> Costs:
    """Time the checkpoint ``folder``, a copy of the parent with few layers, on random tokens."""
    model = checkpoint.load_model(folder, torch.float32).to(where)
    num_layers, vocab_size = model.config.num_hidden_layers, model.config.vocab_size
    length = min(LENGTH, model.config.max_position_embeddings)
    torch.manual_seed(0)
    tokens = torch.randint(vocab_size, (ROWS, length), device=where)
    with torch.inference_mode():
        hidden = last_hidden_states(model, tokens).flatten(0, 1)
        body = seconds(lambda: last_hidden_states(model, tokens), where) / tokens.numel()
        head = seconds(lambda: log_likelihoods(model, hidden, tokens.flatten()), where) / tokens.numel()
        of_head = seconds(lambda: head_of(model).logits(hidden[:CPU_ROWS]), where)
        refits, rounds = _refit(model, where), _rounding(model, where)
    prompts = tokens[:1, :PROMPT].tolist() * CPU_ROWS
    speak = partial(generate, model, prompts, batch_tokens=runtime.batch_tokens)
    few, more = (seconds(partial(speak, number), where) for number in (FEW, MORE))
    decode = max((more - few) / (MORE - FEW) - of_head, 0) / num_layers
    step = _step(model, recipe, runtime, where)
    return Costs(Part(body / num_layers, head), step, Part(decode, of_head), *refits, *rounds)


def seconds(run: Callable[[], object], where: torch.device, times: int = 3) -> float:
    """The least of some times."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        if where.type == "cuda":
            torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return min(took)


def _step(model: PreTrainedModel, recipe: Recipe, runtime: Runtime, where: torch.device) -> Part:
    """A token of a step as tuning takes it: forward, backward, optimizer."""
    length = min(recipe.sequence_length, model.config.max_position_embeddings)
    rows = max(min(recipe.batch_size, runtime.batch_tokens // length), 1)
    ids = torch.randint(model.config.vocab_size, (rows, length), device=where)
    begins = torch.zeros_like(ids, dtype=torch.bool)
    begins[:, 0] = True
    layout = document_mask(model, begins)
    set_trainable(model, recipe)
    outside = {*model.get_input_embeddings().parameters(), *model.get_output_embeddings().parameters()}
    tuned = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def layers() -> None:
        last_hidden_states(model, ids, **layout).sum().backward()

    def whole() -> None:
        with fused_loss(model):
            model(input_ids=ids, labels=ids, **layout).loss.backward()

    def time_of(backward: Callable[[], None], parameters: Sequence[nn.Parameter]) -> float:
        optimizer = torch.optim.AdamW(parameters, lr=0.0, betas=(BETA1, 0.999), weight_decay=recipe.weight_decay)

        def run() -> None:
            backward()
            optimizer.step()
            optimizer.zero_grad()

        return seconds(run, where) / ids.numel()

    model.train()
    entire = time_of(whole, tuned)
    for parameter in outside:
        parameter.requires_grad_(False)
    body = time_of(layers, [parameter for parameter in tuned if parameter not in outside])
    return Part(body / model.config.num_hidden_layers, max(entire - body, 0))


def _refit(model: PreTrainedModel, where: torch.device) -> tuple[float, float]:
    """Least squares of an output projection on two lengths of text: what a token takes, and what is left for none. Of a mixture
    attention's is timed, and not its experts."""
    spec = spec_for(model.config.model_type)
    read = f".{spec.mlp_out or spec.attention_out}"  # a hybrid's first layer has no attention
    projection = cast(nn.Linear, next(module for name, module in model.named_modules() if name.endswith(read)))
    width, hidden = projection.weight.shape[spec.input_axis], projection.weight.shape[1 - spec.input_axis]
    times = []
    for length in (FEW_TOKENS, MORE_TOKENS):
        given, target = (torch.randn(SEQUENCES, length, size, device=where) for size in (width, hidden))
        times.append(seconds(partial(refit_projection, projection, spec.transposed, [(given, target)]), where))
    token = max(times[1] - times[0], 0) / (SEQUENCES * (MORE_TOKENS - FEW_TOKENS))
    return token, max(times[0] - SEQUENCES * FEW_TOKENS * token, 0)


def _rounding(model: PreTrainedModel, where: torch.device) -> tuple[float, float]:
    """A layer's matrices, each under a cost of its own, and a row of the embedding."""
    spec = spec_for(model.config.model_type)
    layer = model.get_submodule(spec.layers)[-1]  # a mixture's first layers may be dense
    block_format = FORMATS[TIMED_FORMAT]

    def once(weight: torch.Tensor) -> float:
        size = weight.shape[1] // block_format.block * block_format.block  # what doesn't fill a block isn't rounded to any

        def run() -> None:
            rounded(weight[:, :size], block_format, Cost(torch.eye(size, device=where)))

        return seconds(run, where, times=1) if size else 0.0

    matrices = [parameter.T if spec.transposed else parameter for parameter in layer.parameters() if parameter.dim() == 2]
    experts = [parameter for parameter in layer.parameters() if parameter.dim() == 3 and spec.experts and spec.experts.stored]
    rows = model.get_input_embeddings().weight[:HEAD_ROWS]
    return sum(map(once, matrices)) + sum(len(matrix) * once(matrix[0]) for matrix in experts), once(rows) / len(rows)
