"""Drop the tokens that the domain's text doesn't need from the tokenizer, the embedding and the lm_head."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigpts import params
from minigpts.errors import UserError, exit_cleanly
from minigpts.model.weights import StoredWeights, num_parameters

FLAGS = {
    "model": "checkpoint folder to start from",
    "counts": "what count_tokens wrote",
    "out": "checkpoint folder to write",
    "metrics": "JSON file to write",
}
OPTIONAL = {
    "keep-terms": "terms whose tokens stay, a json list; without it, none",
    "validation": "validation text, parquet, only to warn of words that now take more tokens",
    "plan": "what plan_budget wrote; without it, embedding_threshold holds",
    "chat-template": "the template that prepare_dataset rendered chats with where the parent has none, else empty",
}


@dataclass(frozen=True)
class Params:
    """What the stage reads of params.yaml."""

    embedding_threshold: float  # tokens whose share of all that were counted is at or below this go; 0: never seen

    def __post_init__(self) -> None:
        params.require(0 <= self.embedding_threshold < 1, "embedding_threshold must be ≥ 0 and < 1", self.embedding_threshold)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage with the flags of dvc.yaml."""
    args = params.flags(argv, __doc__, FLAGS, OPTIONAL)
    threshold = params.read(args.params, Params, None, top_level=("embedding_threshold",)).embedding_threshold

    from minigpts import artifacts
    from minigpts.budget import plan
    from minigpts.model import chat_template, checkpoint
    from minigpts.model.families import spec_for
    from minigpts.vocabulary import counts, keep, terms, trim
    from minigpts.vocabulary.choice import VocabularyChoice
    from minigpts.vocabulary.embeddings import shrink_config, slice_vocabulary

    config, planned = checkpoint.load_config(args.model), plan.read(args.plan)
    choice = VocabularyChoice.of(args.model, config, args.counts, args.keep_terms)
    reasons = choice.above(threshold) if planned is None else choice.most_frequent(planned.num_counted_tokens)
    if planned is not None and len(reasons) != planned.vocab_size:
        raise UserError(f"{args.plan}: plans for {planned.vocab_size} tokens, here it leaves {len(reasons)}; run plan_budget again")
    kept, tokens, count = list(reasons), counts.tokens_of(choice.tokenizer), choice.counts

    stored, vocab_size = StoredWeights(args.model), config.vocab_size
    weights = slice_vocabulary(stored, spec_for(config.model_type), kept)
    shrink_config(config, kept)
    with checkpoint.saving(args.out, config, weights, companions=args.model) as folder:
        trim.trim_files(folder, choice.definition, choice.tokenizer, kept)
        for index_map in sorted(args.model.glob("*.parquet")):
            shutil.copyfile(index_map, folder / index_map.name)
        if args.chat_template and args.chat_template.stat().st_size and not (folder / chat_template.NAME).exists():
            shutil.copyfile(args.chat_template, folder / chat_template.NAME)
        artifacts.write_table(folder / "pruned_tokens.parquet", _index_map(tokens, count, reasons))

    before, after = (num_parameters(weights.shapes) for weights in (stored, StoredWeights(args.out)))
    kept_for = Counter(reasons.values())
    validation = artifacts.read_table(args.validation, ["text"])["text"] if args.validation else []
    longer = terms.spelled_longer(choice.tokenizer, choice.trimmed(kept), validation)
    if longer:
        print(terms.warning(longer), file=sys.stderr)
    metrics = {
        "vocab_size_before": vocab_size,
        "vocab_size_after": len(kept),
        "tokens_kept": {reason: kept_for[reason] for reason in keep.REASONS},
        "num_validation_terms_spelled_longer": len(longer),
        "validation_terms_spelled_longer": terms.listed(longer),
        "tokens_never_seen": int((count == 0).sum()),
        "parameters_removed": before - after,
        "parameters_removed_share": 1 - after / before,
    }
    artifacts.write_json(args.metrics, metrics)


def _index_map(tokens: Sequence[str | None], count: NDArray[np.int64], reasons: Mapping[int, str]) -> dict[str, Any]:
    """Every token of the parent: its count, its id in the child (-1: none), and why it stays."""
    new_ids = {old: new for new, old in enumerate(reasons)}
    ids = range(len(tokens))
    return {
        "token_id": ids,
        "token": tokens,
        "count": count,
        "new_id": [new_ids.get(old, -1) for old in ids],
        "reason": [reasons.get(old) for old in ids],
    }


if __name__ == "__main__":
    exit_cleanly(main)
