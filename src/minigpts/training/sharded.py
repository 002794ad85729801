"""A model whose parameters lie in shards on several processes (FSDP2), seen as the plain model it is of.

Scores, the best weights and the way back to them are those of a plain model, so each process holds a whole one for as long as it is
scored: 4 bytes a parameter, where training it takes 16 that the processes share.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

FULL = StateDictOptions(full_state_dict=True)


class Plain:
    """The plain twin of a model that a Trainer may come to shard."""

    def __init__(self, model: PreTrainedModel) -> None:
        """``model`` isn't sharded yet. Its parameters are not copied."""
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # a forward's output, never written into
        self.model = model
        empty = {id(given): nn.Parameter(torch.empty_like(given, device="meta"), False) for given in model.parameters()}
        self.twin: PreTrainedModel = copy.deepcopy(model, memo=dict(empty))

    @contextmanager
    def whole(self, *, changed: bool = False) -> Iterator[PreTrainedModel]:
        """The model itself or, if it is sharded, a plain one, whose parameters go back to the shards where they are ``changed``.

        Every process has to enter the block.
        """
        module: nn.Module = self.model
        if not isinstance(module, FSDPModule):
            yield self.model
            return
        plain = copy.deepcopy(self.twin)
        plain.load_state_dict(get_model_state_dict(self.model, options=FULL), assign=True)
        plain.tie_weights()
        yield plain.to(self.model.device).eval()  # buffers, too
        if changed:
            set_model_state_dict(self.model, plain.state_dict(), options=FULL)
