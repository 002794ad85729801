"""Cross-entropy over the vocabulary without ever holding all logits.

A language model's largest tensors are its logits, (tokens, vocab_size) in fp32, and their gradient. Both exist here
for one slice of tokens at a time: each slice's gradient is taken right after its loss, in the forward pass, since the
gradient of a cross-entropy needs nothing from above it but a scalar factor. (The idea of Liger Kernel, arXiv
2410.10989, in plain PyTorch.) The loss and the gradients are those of the stock model, up to the order of summation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import linear, log_softmax
from transformers import PreTrainedModel

from minigpts.architectures.registry import spec_for

SLICE_ELEMENTS = 2**24  # logits alive at a time: 64 MiB in fp32; smaller slices make slower matrix products


class _LinearCrossEntropy(torch.autograd.Function):
    """Σ −log softmax(logits)[label] of logits hidden · weightᵀ + bias, capped or not, and its gradients while they are at hand."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor, cap: float | None
    ) -> torch.Tensor:
        """``hidden`` (tokens, hidden_size), ``weight`` (vocab_size, hidden_size), ``labels`` (tokens,), ``cap`` the c of
        c·tanh(logits / c), if any; gives a scalar."""
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        of_hidden, of_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        of_bias = None if bias is None else torch.zeros_like(bias)
        slices = max(-(-hidden.shape[0] * weight.shape[0] // SLICE_ELEMENTS), 1)  # of equal size, about
        for part, label, out in zip(*(tensor.tensor_split(slices) for tensor in (hidden, labels, of_hidden)), strict=True):
            logits = linear(part, weight, bias).float()  # (rows, vocab_size)
            slope = None
            if cap is not None:
                shares = logits.div_(cap).tanh_()
                slope = 1 - shares.square()  # of c·tanh(y / c) with respect to y
                logits = shares.mul_(cap)
            log_p = log_softmax(logits, dim=-1)
            label = label[:, None]
            total -= log_p.gather(1, label).sum()
            gradient = log_p.exp_().scatter_add_(1, label, log_p.new_full(label.shape, -1.0))  # softmax − one-hot
            if slope is not None:
                gradient *= slope
            out.copy_(gradient @ weight)
            if of_bias is not None:
                of_bias += gradient.sum(0)
            _add_product(of_weight, gradient.T, part)
        ctx.save_for_backward(of_hidden, of_weight, of_bias)
        return total

    @staticmethod
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The stored gradients, times the one factor that comes from above."""
        of_hidden, of_weight, of_bias = ctx.saved_tensors
        return of_hidden.mul_(scale), of_weight.mul_(scale), None if of_bias is None else of_bias.mul_(scale), None, None


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """``total += left @ right``: in one pass where no autocast asks for a product of another precision than the sum's."""
    if torch.is_autocast_enabled(total.device.type):
        total += left @ right
    else:
        total.addmm_(left, right)


@contextmanager
def fused_loss(model: PreTrainedModel) -> Iterator[None]:
    """Within the block, ``model(input_ids, labels=labels).loss`` is computed slice by slice and there are no logits.

    The head hands the hidden states through and the loss applies its weights, so that the call still goes through the
    model's own forward: what wraps it (distributed training, autocast) works as ever. Where the family caps its logits, the
    config's cap is set aside meanwhile, or the model would cap hidden states. Every label counts: packed sequences have no
    padding to ignore.
    """
    head, spec = model.get_output_embeddings(), spec_for(model.config.model_type)
    cap = spec.logit_softcap(model.config)

    def loss_function(
        logits: torch.Tensor, labels: torch.Tensor, vocab_size: int, num_items_in_batch: Any = None, **_: Any
    ) -> torch.Tensor:
        hidden = logits[..., :-1, :].flatten(0, -2)  # the head is the identity now; token t predicts token t + 1
        targets = labels[..., 1:].flatten()
        total = _LinearCrossEntropy.apply(hidden, head.weight, getattr(head, "bias", None), targets, cap)
        return total / (len(targets) if num_items_in_batch is None else num_items_in_batch)

    head.forward = lambda hidden: hidden
    model.loss_function = loss_function
    if spec.logit_softcap_field is not None:
        setattr(model.config, spec.logit_softcap_field, None)
    try:
        yield
    finally:
        del head.forward, model._loss_function
        if spec.logit_softcap_field is not None:
            setattr(model.config, spec.logit_softcap_field, cap)
