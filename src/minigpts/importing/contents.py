"""What a checkpoint folder or repository may hold: which of its files are read, and why each of the others is not."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatch

from minigpts.model.checkpoint import WEIGHTS

INDEX = f"{WEIGHTS}.index.json"
SETTINGS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",  # of transformers before 5, as the next
    "added_tokens.json",
    INDEX,
)
TEMPLATE = "chat_template.jinja"
# The forms that a tokenizer comes in; the first that is there is read.
TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))
SMALL_FILES = (*SETTINGS, TEMPLATE, *(name for form in TOKENIZERS for name in form))

# Why a file is not read, by its name in lower case; the first pattern that fits. None: it says nothing of the model.
_UNREAD: tuple[tuple[tuple[str, ...], str | None], ...] = (
    (("adapter_config.json", "adapter_model*"), "an adapter; if it belongs to the model, merge it into the weights first"),
    (("optimizer*", "scheduler*", "scaler*", "rng_state*", "training_args*", "trainer_state*"), "left over from training"),
    (("checkpoint-*", "global_step*", "latest", "runs", "events.out.*", "wandb"), "left over from training"),
    (("*quant*config*.json", "recipe.yaml", "*.gptq*", "*.awq*"), "about a quantized copy"),
    (("*processor*config*.json", "*feature_extractor*"), "for images or sound"),
    (("*.py", "custom_generate"), "code, which is never run"),
    (("chat_template.json", "chat_templates", "additional_chat_templates"), "further chat templates; one alone is kept"),
    (("tokenizer*.json", "tokenizer.model*", "vocab.*", "merges.txt", "spiece.model"), "another form of the tokenizer"),
    (("tekken.json", "*.tiktoken", "*.spm", "bpe.codes", "dict.txt"), "another form of the tokenizer"),
    (("*.safetensors", "*.safetensors.index.json"), "another set of weights"),
    (("*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle"), "weights that unpickling would run as code"),
    (("*.gguf", "*.onnx*", "onnx", "*.h5", "*.msgpack", "*.tflite", "*.ot", "*.mlmodel", "openvino*"), "weights in another format"),
    (("*.parquet",), "maps from an earlier cut"),
    (("readme*", "license*", "notice*", "use_policy*", ".*", "*.md", "*.txt", "*.pdf", "*.png", "*.jpg", "*.svg"), None),
    (("*",), "unknown here"),
)
MOST = 3  # names of one kind in a line


def unread(names: Iterable[str], read: Iterable[str]) -> list[str]:
    """The files and folders ``names`` that are not among ``read``, by kind, each kind with its reason: ``a, b (why)``."""
    from minigpts.model import uneven_widths  # which imports torch

    kinds: dict[str, list[str]] = {}
    for name in sorted({*names} - {*read, uneven_widths.FILE}):
        reason = next(why for patterns, why in _UNREAD if any(fnmatch(name.lower(), pattern) for pattern in patterns))
        if reason is not None:
            kinds.setdefault(reason, []).append(name)
    return [f"{_enumerated(found)} ({reason})" for reason, found in kinds.items()]


def _enumerated(names: list[str]) -> str:
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + more
