"""What tokenizers put around a text, for the special tokens of tests/tiny.py: each with the ids that stand before it."""

from __future__ import annotations

from tokenizers import processors

IDS = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}


def _template(single: str, pair: str | None = None) -> processors.TemplateProcessing:
    named = [(token, token_id) for token, token_id in IDS.items() if token in single + (pair or "")]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=named)


_ENDS = (("<|im_end|>", 2), ("<|im_start|>", 1))  # behind the text, before it
_BYTES = processors.ByteLevel(add_prefix_space=False, trim_offsets=True)

POST_PROCESSORS: dict[str, tuple[processors.PostProcessor | None, list[int]]] = {
    "none": (None, []),
    "byte-level": (_BYTES, []),
    "bos": (_template("<|im_start|> $A"), [1]),
    "eos": (_template("$A <|im_end|>"), []),
    "an eos that is not the config's": (_template("$A <|endoftext|>"), []),
    "bos and eos": (_template("<|im_start|> $A <|im_end|>"), [1]),
    "pair": (_template("<|im_start|> $A <|im_end|>", "<|im_start|> $A <|im_end|> $B:1 <|im_end|>:1"), [1]),
    "two before": (_template("<|im_start|> <|endoftext|> $A <|im_end|> <|im_end|>"), [1, 0]),
    "sequence": (processors.Sequence([_BYTES, _template("<|im_start|> $A <|im_end|>")]), [1]),
    "bert": (processors.BertProcessing(*_ENDS), [1]),
    "roberta": (processors.RobertaProcessing(*_ENDS), [1]),
}
