"""Tiny models with odd sizes and a real byte-level BPE tokenizer, built in place."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, OPTConfig, PreTrainedConfig

from minigpts import checkpoint

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
WORDS = [
    "heart",
    "lung",
    "liver",
    "kidney",
    "brain",
    "bone",
    "skin",
    "eye",
    "ear",
    "nerve",
    "vein",
    "cell",
    "blood",
    "muscle",
    "joint",
    "tooth",
    "hair",
    "nail",
]


def sentences(count: int, seed: int = 0) -> list[str]:
    """Distinct little texts about organs, without a random library's help: the same for everyone."""
    return [
        f"{WORDS[(i * 7 + seed) % 18].capitalize()} {i}: an abnormality of the {WORDS[i % 18]} near the {WORDS[(i * 5 + 3) % 18]}"
        f" and the {WORDS[(i * 11 + seed) % 18]}."
        for i in range(count)
    ]


def llama_config(vocab_size: int, **changes: object) -> PreTrainedConfig:
    """Two or three odd-sized layers, grouped-query attention, tied embeddings."""
    values = dict(
        vocab_size=vocab_size,
        hidden_size=40,
        intermediate_size=77,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=10,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return LlamaConfig(**{**values, **changes})


def opt_config(vocab_size: int, **changes: object) -> PreTrainedConfig:
    """OPT: one up-projection, ReLU, biases."""
    values = dict(
        vocab_size=vocab_size,
        hidden_size=40,
        word_embed_proj_dim=40,
        ffn_dim=77,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        dropout=0.0,
    )
    return OPTConfig(**{**values, **changes})


def write_tokenizer(directory: Path, vocab_size: int = 480) -> int:
    """Train a byte-level BPE on :func:`sentences` and write it with its config and chat template; gives its size."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*sentences(300), *(f"{word} user assistant system" for word in WORDS)], trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "TokenizersBackend",
        "bos_token": SPECIAL[1],
        "eos_token": SPECIAL[2],
        "pad_token": SPECIAL[2],
        "unk_token": SPECIAL[0],
        "model_max_length": 256,
        "clean_up_tokenization_spaces": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return tokenizer.get_vocab_size()


def write_checkpoint(
    directory: Path, family: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32, **changes: object
) -> Path:
    """A whole checkpoint folder with seeded random weights, large enough that every logit depends on every part."""
    scratch = directory.with_name(f"{directory.name}-tokenizer")
    scratch.mkdir(parents=True)
    vocab_size = write_tokenizer(scratch)
    config = {"llama": llama_config, "opt": opt_config}[family](**{"vocab_size": vocab_size, **changes})
    config.architectures = [{"llama": "LlamaForCausalLM", "opt": "OPTForCausalLM"}[family]]
    config.dtype = dtype
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0 if parameter.dim() > 1 else 0.5, 0.15)
    (scratch / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}))
    with checkpoint.saving(directory, config, checkpoint.weights_of(model, dtype), companions=scratch):
        pass
    return directory
