"""Multiple-choice accuracy, as lm-evaluation-harness 0.4.13 defines it for its ``multiple_choice`` output type.

The model is shown ``Question: …\\nAnswer:`` and picks the choice it finds likeliest. A question's choices share the prompt
and often their first words, so every question is one token tree: each shared prefix is computed once, every token attends
to its own ancestors only, and the result is what scoring each choice by itself would give. Recurrent layers carry their state
through whatever lies before a token, masked or not, so for a hybrid each choice is a tree of its own.

Where a token spans the prompt's end (": C" is one token), the harness, which cuts the whole's tokens at the number of the
prompt's, would score a choice on too few tokens, or refuse it for having none. Here all choices of such a question are scored
from the last token boundary that the prompt and all of them share. What is summed is then ln p(end of the prompt, choice |
what is before), which differs from ln p(choice | prompt) by one term common to all choices, so the comparison is that of the
choices' own likelihoods. That term is ln p(end of the prompt | what is before): near 0, as a model that was shown the question
and ``Answer`` expects the ``:``. Wherever the prompt's tokens begin the whole's, both cuts are the same.

Through a chat template, as with the harness's ``--apply_chat_template``, the same prompt is the user's turn, and a choice
begins the assistant's reply, with nothing in between but what the template writes. Equal to the harness are the text (but for
the day, where a template asks for it), white space at the prompt's end, which counts as the choice's, a BOS token that the
template writes, in place of the tokenizer's own, and so the scores.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from minigpts import ranks
from minigpts.errors import blaming
from minigpts.evaluation.language_modeling import batches, max_padding
from minigpts.model import packing
from minigpts.model.families import spec_for
from minigpts.model.forward import attention_mask, hidden_states_of, log_likelihoods

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from minigpts.model.chat_template import ChatTemplate
    from minigpts.model.forward import Model
    from minigpts.model.streaming import Inputs


@dataclass(frozen=True)
class _Tree:
    """The input tokens of one question, every shared prefix once; a parent comes before its children."""

    tokens: np.ndarray  # (nodes,) ids
    positions: np.ndarray  # (nodes,) distance from the sequence's start
    parents: np.ndarray  # (nodes,) the node before each, −1 for the first
    predicting: tuple[np.ndarray, ...]  # per choice: the nodes that predict its tokens
    targets: tuple[np.ndarray, ...]  # per choice: the ids they predict


@torch.inference_mode()
def score(
    model: Model,
    tokenizer: Tokenizer,
    questions: Sequence[Mapping[str, Any]],
    *,
    batch_tokens: int,
    template: ChatTemplate | None = None,
    progress: str | None = None,
) -> list[np.ndarray]:
    """ln p of each choice given its question: an array of shape (choices,) per question, summed over the choice's tokens.

    A question is ``{"question": str, "choices": [str, …]}``, asked through ``template`` if there is one. A choice that the
    tokenizer has no token for gets −∞, so that nothing is not the likeliest of all. ``batch_tokens`` is about how many tokens one
    forward takes (it changes memory and speed, not the result), ``progress`` the title of a progress bar.
    Several processes score a share of the batches each, and all get the whole.
    Raises UserError where the template refuses a question.
    """
    longest = model.config.max_position_embeddings
    bos = packing.boundaries(tokenizer, model.config).bos
    encoded = [_encode(tokenizer, question, template) for question in questions]
    apart = spec_for(model.config.model_type).recurrence is not None
    trees = [_tree(part, bos, longest) for pairs in encoded for part in ([[pair] for pair in pairs] if apart else [pairs])]
    scores: list[np.ndarray] = [np.empty(0)] * len(trees)
    together = list(batches([len(tree.tokens) for tree in trees], batch_tokens, max_padding(model.device, batch_tokens)))
    hidden = hidden_states_of(model, (_inputs(model, [trees[index] for index in batch]) for batch in ranks.share(together)))
    scored = ranks.in_order(together, lambda batch: _score_trees(model, next(hidden), [trees[index] for index in batch]))
    with tqdm(total=len(trees), desc=progress, unit="choice" if apart else "question", disable=progress is None) as bar:
        for batch, results in zip(together, scored, strict=True):
            for index, result in zip(batch, results, strict=True):
                scores[index] = result
            bar.update(len(batch))
    if not apart:
        return scores
    ends = np.cumsum([len(pairs) for pairs in encoded])[:-1]
    return np.split(np.concatenate(scores), ends) if scores else []


def accuracy(questions: Sequence[Mapping[str, Any]], scores: Sequence[np.ndarray]) -> dict[str, float]:
    """``acc``, ``acc_norm`` (by choice length in characters), each with its ``_stderr``; nothing for no questions.

    ``answer`` of a question is the index of its right choice; the standard errors are the sample mean's (n − 1).
    """
    if not questions:
        return {}
    answers = [question["answer"] for question in questions]
    lengths = [np.array([len(choice) for choice in question["choices"]]) for question in questions]
    plain = [float(np.argmax(ln_p) == answer) for ln_p, answer in zip(scores, answers, strict=True)]
    normed = [float(np.argmax(ln_p / n) == answer) for ln_p, n, answer in zip(scores, lengths, answers, strict=True)]
    return {
        "acc": statistics.fmean(plain),
        "acc_stderr": _standard_error(plain),
        "acc_norm": statistics.fmean(normed),
        "acc_norm_stderr": _standard_error(normed),
    }


def _standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _texts(question: Mapping[str, Any], template: ChatTemplate | None) -> tuple[str, list[str]]:
    """The prompt, and the prompt with each choice."""
    prompt = f"Question: {question['question']}\nAnswer:"
    if template is None:
        return prompt, [f"{prompt} {choice}" for choice in question["choices"]]
    with blaming("evaluate.chat", "the chat template refuses a question; set it to false"):
        prompt = template.render([{"role": "user", "content": prompt}], prompt=True)
    return prompt.rstrip(), [prompt + choice for choice in question["choices"]]


def _encode(
    tokenizer: Tokenizer, question: Mapping[str, Any], template: ChatTemplate | None = None
) -> list[tuple[list[int], list[int]]]:
    """(context ids, continuation ids) of each choice, cut where the tokens of prompt and choices part (see the module).

    The whole is encoded and then cut: how the boundary is tokenized depends on both sides. Of the special tokens that the
    tokenizer adds, those before the text are kept, unless a template wrote them. Only a choice without a token of its own has no
    continuation.
    """
    prompt, asked = _texts(question, template)
    start, *wholes = (encoding.ids for encoding in tokenizer.encode_batch_fast([prompt, *asked], add_special_tokens=False))
    shared = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(start, *wholes, strict=False)))
    before = packing.tokens_before(tokenizer)
    context = [*(() if start[: len(before)] == before else before), *start[:shared]]
    return [(context, [] if whole == start else whole[shared:]) for whole in wholes]


def _tree(pairs: Sequence[tuple[list[int], list[int]]], bos: int, longest: int) -> _Tree:
    """Merge the (context, continuation) pairs of a question; inputs beyond ``longest`` tokens are cut from the left.

    An empty context is a ``bos``, as in the harness: something has to predict the first token.
    """
    nodes: dict[tuple[int, int], int] = {}  # (parent, token) -> node
    predicting, targets = [], []
    for context, continuation in pairs:
        path, node = [], -1
        for token in ((context or [bos]) + continuation)[-(longest + 1) : -1]:
            node = nodes.setdefault((node, token), len(nodes))
            path.append(node)
        scored = min(len(continuation), len(path))
        predicting.append(np.array(path[len(path) - scored :], dtype=np.int64))
        targets.append(np.array(continuation[len(continuation) - scored :], dtype=np.int64))
    parents, tokens = np.array(list(nodes), dtype=np.int64).T
    positions = np.zeros_like(parents)
    for node, parent in enumerate(parents):
        if parent >= 0:
            positions[node] = positions[parent] + 1
    return _Tree(tokens, positions, parents, tuple(predicting), tuple(targets))


def _visible(tree: _Tree) -> np.ndarray:
    """What each node sees, itself and its ancestors; bool (nodes, nodes), so made for one batch at a time."""
    visible = np.eye(len(tree.parents), dtype=bool)
    for node, parent in enumerate(tree.parents):
        if parent >= 0:
            visible[node] |= visible[parent]
    return visible


def _inputs(model: Model, trees: Sequence[_Tree]) -> Inputs:
    """What the decoder is called with: right-padded trees, each node seeing itself and its ancestors."""
    width = max(len(tree.tokens) for tree in trees)
    inputs = np.zeros((len(trees), width), dtype=np.int64)
    positions = np.zeros_like(inputs)
    visible = np.zeros((len(trees), 1, width, width), dtype=bool)  # (questions, heads, from, to)
    for row, tree in enumerate(trees):
        size = len(tree.tokens)
        inputs[row, :size], positions[row, :size], visible[row, 0, :size, :size] = tree.tokens, tree.positions, _visible(tree)
    ids, places, seen = (torch.from_numpy(array).to(model.device) for array in (inputs, positions, visible))
    return {"input_ids": ids, "position_ids": places, "attention_mask": attention_mask(model, seen, places)}


def _score_trees(model: Model, hidden: torch.Tensor, trees: Sequence[_Tree]) -> list[np.ndarray]:
    """ln p of every choice of every tree, of what the head reads of them, (trees, nodes, hidden_size)."""
    width = hidden.shape[1]
    used = np.concatenate([row * width + nodes for row, tree in enumerate(trees) for nodes in tree.predicting])
    targets = np.concatenate([ids for tree in trees for ids in tree.targets])
    states = hidden.flatten(0, 1)[torch.from_numpy(used).to(hidden.device)]
    values = log_likelihoods(model, states, torch.from_numpy(targets))
    pieces = iter(np.split(values, np.cumsum([len(ids) for tree in trees for ids in tree.targets])[:-1]))
    return [np.array([next(pieces).sum() if len(ids) else -math.inf for ids in tree.targets]) for tree in trees]
