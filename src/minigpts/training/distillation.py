"""A teacher beside the child: what it expects of every next token, over the tokens that the child still has.

Of general text that the parent wrote it may have the whole loss: the KL divergence to the parent is least where the child speaks as
the parent does (Kim and Rush, arXiv 1606.07947), and the domain's text keeps its cross-entropy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from minigpts import artifacts
from minigpts.errors import UserError
from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from minigpts.model.forward import head_of
from minigpts.model.loss import SoftTargets

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INDEX_MAP = "pruned_tokens.parquet"  # of a trimmed checkpoint: each token of its parent, and its new id or -1


class Teacher:
    """A frozen model of the same tokens: the child's parent, tuned or not. (Hinton et al., arXiv 1503.02531, at temperature 1.)

    Its distribution is taken over the child's tokens alone and renormalized. Only its hidden states are ever held whole:
    :mod:`minigpts.model.loss` makes its logits a slice at a time.
    """

    def __init__(self, model: PreTrainedModel, ids: torch.Tensor, share: float, share_of_general: float) -> None:
        """``ids`` (the child's vocab_size,): the teacher's id of each of the child's tokens.

        ``share`` is its share of the loss of the domain's text, ``share_of_general`` that of general text.
        """
        self.decoder = model.get_submodule(spec_for(model.config.model_type).decoder).requires_grad_(False)
        head = head_of(model)
        bias = None if head.bias is None else head.bias.detach()[ids]
        self.head, self.ids = replace(head, weight=head.weight.detach()[ids], bias=bias), ids
        self.share, self.share_of_general = share, share_of_general

    def to(self, device: torch.device) -> Teacher:
        """Move it to a device, in place."""
        self.decoder.to(device)
        bias = None if self.head.bias is None else self.head.bias.to(device)
        self.head, self.ids = replace(self.head, weight=self.head.weight.to(device), bias=bias), self.ids.to(device)
        return self

    @torch.inference_mode()
    def soft_targets(self, input_ids: torch.Tensor, general: torch.Tensor, layout: Mapping[str, Any]) -> SoftTargets | None:
        """What it expects after each of the child's ``input_ids`` (sequences, tokens), laid out as the child's are.

        ``general`` (sequences,) says which are of general text. None where it has a share in none of them.
        """
        if not self.share and not general.any():
            return None
        hidden = self.decoder(input_ids=self.ids[input_ids], use_cache=False, **layout).last_hidden_state
        share = torch.where(general, self.share_of_general, self.share)[:, None].expand(input_ids.shape)
        return SoftTargets(hidden, self.head, share)


def load_teacher(folder: Path, child: Path, share: float, share_of_general: float) -> Teacher:
    """The teacher for the checkpoint ``child``, in fp32. Raises UserError unless it knows every token of the child by name."""
    ids = torch.arange(checkpoint.load_config(child).vocab_size)
    if (child / INDEX_MAP).exists():
        new_ids = torch.tensor(artifacts.read_table(child / INDEX_MAP, ["new_id"])["new_id"])
        (kept,) = torch.nonzero(new_ids >= 0, as_tuple=True)
        ids = kept[new_ids[kept].argsort()]
    own, others = checkpoint.load_fast_tokenizer(child), checkpoint.load_fast_tokenizer(folder)
    for new, old in enumerate(ids.tolist()):
        if own.id_to_token(new) != others.id_to_token(old):
            raise UserError(
                f"{folder}: its token {old} is not token {new} of {child}; finetune.teacher must be the child's own parent,"
                " tuned or not"
            )
    return Teacher(checkpoint.load_model(folder, torch.float32), ids, share, share_of_general)
