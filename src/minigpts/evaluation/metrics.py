"""What is measured of a checkpoint in ``metrics/{base,pruned,finetuned}.json``, by name; :mod:`.speech.measure` has the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpts.errors import UserError
from minigpts.evaluation import language_modeling, multiple_choice
from minigpts.model import checkpoint, packing
from minigpts.model.packing import Spans
from minigpts.model.weights import StoredWeights, num_parameters

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from minigpts.model.chat_template import ChatTemplate
    from minigpts.model.forward import Model


def text_metrics(
    model: Model,
    tokenizer: Tokenizer,
    base_tokenizer: Tokenizer,
    texts: Mapping[str, Sequence[str]],
    *,
    sequence_length: int,
    batch_tokens: int,
    spans: Mapping[str, Sequence[Spans | None]] | None = None,
) -> dict[str, float]:
    """``bits_per_byte`` of the texts named ``test`` and ``validation``, and the test text's ``perplexity``.

    Perplexity is per token of the *base* tokenizer, whichever tokenizer scored: per own token it would not compare
    across vocabularies. Where ``spans``, by the same names, say which characters of chats the assistant says, the validation
    text's figure is of those alone, as tuning watches it, and the test text's chats have ``assistant_bits_per_byte``.
    Raises UserError when there is no text or the model predicts no finite probabilities.
    """
    limits = {"sequence_length": sequence_length, "batch_tokens": batch_tokens}
    asked, tested = (None, []) if spans is None else (spans["validation"], spans["test"])
    said = [those or () for those in tested] if any(tested) else None  # a text that is no chat has no assistant
    validation = language_modeling.score(model, tokenizer, texts["validation"], **limits, progress="validation text", spans=asked)
    test = language_modeling.score(model, tokenizer, texts["test"], **limits, progress="test text", spans=said)
    if not math.isfinite(validation.nats + test.nats):
        raise UserError("the checkpoint predicts no finite probabilities: its weights are damaged (NaN or overflow); make it again")
    base_tokens = sum(map(len, packing.encode(base_tokenizer, texts["test"])))
    return {
        "bits_per_byte": test.bits_per_byte,
        "validation_bits_per_byte": validation.span_bits_per_byte,
        "perplexity": math.exp(test.nats / base_tokens),
        "test_bytes": test.bytes,
        "test_tokens": test.tokens,
        "test_base_tokens": base_tokens,
        **({} if said is None else {"assistant_bits_per_byte": test.span_bits_per_byte}),
    }


def accuracy_metrics(
    model: Model,
    tokenizer: Tokenizer,
    questions: Sequence[Mapping[str, Any]],
    *,
    batch_tokens: int,
    template: ChatTemplate | None = None,
) -> dict[str, float]:
    """Accuracy on the questions of split ``test`` with its standard error, and on those of ``validation`` without.

    They are asked through the ``template`` where there is one. A split without questions has a count of zero and no accuracy.
    """
    scores = multiple_choice.score(model, tokenizer, questions, batch_tokens=batch_tokens, template=template, progress="questions")
    test, validation = (
        [row for row, question in enumerate(questions) if question["split"] == split] for split in ("test", "validation")
    )
    tested = multiple_choice.accuracy([questions[row] for row in test], [scores[row] for row in test])
    validated = multiple_choice.accuracy([questions[row] for row in validation], [scores[row] for row in validation])
    return {
        **tested,
        **{f"validation_{name}": validated[name] for name in ("acc", "acc_norm") if name in validated},
        "num_questions": len(test),
        "num_validation_questions": len(validation),
    }


def size_metrics(directory: Path, base: Path) -> dict[str, float]:
    """What the checkpoint's files hold (see ``checkpoint.sizes``) and ``relative_size``, its parameters over the base's."""
    sizes = checkpoint.sizes(directory)
    return {**sizes, "relative_size": sizes["num_parameters"] / num_parameters(StoredWeights(base).shapes)}
