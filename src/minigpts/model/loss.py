"""Cross-entropy over the vocabulary without ever holding all logits.

A language model's largest tensors are its logits, (tokens, vocab_size) in fp32, and their gradient. Both exist here
for one slice of tokens at a time: each slice's gradient is taken right after its loss, in the forward pass, since the
gradient of a cross-entropy needs nothing from above it but a scalar factor. (The idea of Liger Kernel, arXiv
2410.10989, in plain PyTorch.) The loss and the gradients are those of the stock model, up to the order of summation.
A teacher's logits, where it has a share in a token's loss, are made for the same slice and go with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import log_softmax
from transformers import PreTrainedModel

from minigpts.model.families import spec_for
from minigpts.model.forward import Head, head_of
from minigpts.model.packing import IGNORED


@dataclass(frozen=True)
class SoftTargets:
    """A teacher's distribution of every next token, over the child's vocabulary, not yet computed."""

    hidden: torch.Tensor  # (sequences, tokens, the teacher's hidden_size)
    head: Head
    share: torch.Tensor  # (sequences, tokens) of each token's loss, 0 to 1; the label has the rest


class _LinearCrossEntropy(torch.autograd.Function):
    """Σ −log softmax(logits)[label], and its gradients while they are at hand.

    With soft targets it is Σ −(1 − share)·log p[label] + share·KL(q ‖ p), q being the teacher's distribution: its gradient with
    respect to the logits is p − (1 − share)·one-hot − share·q, since p's part is the same in both terms.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        cap: float | None,
        soft: SoftTargets | None,
    ) -> torch.Tensor:
        """``hidden`` (tokens, hidden_size), ``weight`` (vocab_size, hidden_size), ``labels`` (tokens,), ``cap`` the c of
        c·tanh(logits / c), if any, ``soft`` with hidden states (tokens, …) and shares (tokens,); gives a scalar."""
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        of_hidden = torch.empty_like(hidden)
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        of_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        states = hidden.new_empty(len(hidden), 0) if soft is None else soft.hidden
        shares = torch.zeros(len(hidden), device=hidden.device) if soft is None else soft.share
        head = Head(weight, bias, cap)
        for part, label, state, share, out in head.slices(hidden, labels, states, shares[:, None], of_hidden):
            logits = head.logits(part)
            slope = head.slope(logits)
            log_p = log_softmax(logits, dim=-1)
            label = label[:, None]
            total -= ((1 - share) * log_p.gather(1, label)).sum()
            wanted = None
            if soft is not None:
                log_q = log_softmax(soft.head.logits(state), dim=-1)
                wanted = log_q.exp().mul_(share)  # (rows, vocab_size)
                total += torch.dot(wanted.flatten(), log_q.sub_(log_p).flatten())
            gradient = log_p.exp_().scatter_add_(1, label, share - 1)
            if wanted is not None:
                gradient -= wanted
            if slope is not None:
                gradient *= slope
            out.copy_(gradient @ weight)
            if of_bias is not None:
                of_bias += gradient.sum(0)
            if of_weight is not None:
                _add_product(of_weight, gradient.T, part)
        ctx.save_for_backward(of_hidden, of_weight, of_bias)
        return total

    @staticmethod
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The stored gradients, times the one factor that comes from above."""
        return (*(None if tensor is None else tensor.mul_(scale) for tensor in ctx.saved_tensors), None, None, None)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """``total += left @ right``: in one pass where no autocast asks for a product of another precision than the sum's."""
    if torch.is_autocast_enabled(total.device.type):
        total += left @ right
    else:
        total.addmm_(left, right)


@contextmanager
def fused_loss(model: PreTrainedModel, soft: SoftTargets | None = None) -> Iterator[None]:
    """Within the block, ``model(input_ids, labels=labels).loss`` is computed slice by slice and there are no logits.

    The head hands the hidden states through and the loss applies its weights, so that the call still goes through the
    model's own forward: what wraps it (distributed training, autocast) works as ever. Where the family caps its logits, the
    config's cap is set aside meanwhile, or the model would cap hidden states. Where it scales them, it scales the hidden states,
    which comes to the same: no such family's head has a bias. A token whose label is ``IGNORED`` is no
    target, as in the stock loss, and costs no logits.
    """
    output, spec, cap = model.get_output_embeddings(), spec_for(model.config.model_type), head_of(model).cap

    def loss_function(
        logits: torch.Tensor, labels: torch.Tensor, vocab_size: int, num_items_in_batch: Any = None, **_: Any
    ) -> torch.Tensor:
        targets = labels[..., 1:]  # token t predicts token t + 1
        counts = targets != IGNORED
        hidden = logits[..., :-1, :][counts]  # the head is the identity now
        states = None if soft is None else SoftTargets(soft.hidden[..., :-1, :][counts], soft.head, soft.share[..., :-1][counts])
        weight, bias = output.weight, getattr(output, "bias", None)  # which a sharded model has whole in its forward alone
        total = _LinearCrossEntropy.apply(hidden, weight, bias, targets[counts], cap, states)
        return total / (len(hidden) if num_items_in_batch is None else num_items_in_batch)

    output.forward = lambda hidden: hidden
    model.loss_function = loss_function
    if spec.logit_softcap_field is not None:
        setattr(model.config, spec.logit_softcap_field, None)
    try:
        yield
    finally:
        del output.forward, model._loss_function
        if spec.logit_softcap_field is not None:
            setattr(model.config, spec.logit_softcap_field, cap)
