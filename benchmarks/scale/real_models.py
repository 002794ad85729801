"""Stand-ins for the paper's three models: their exact shapes, config and vocabulary size, with seeded random weights.

Sizes and special ids are those of the hub's config.json files. The tokenizers are of the right kind and size, but trained here on
made-up words, since the real ones can't be shipped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedConfig

from minigpts import artifacts
from minigpts.model.checkpoint import stored_shapes
from minigpts.model.transformers4 import tokenizer_settings
from minigpts.model.weights import WEIGHTS, TensorWriter, num_parameters, write_tensors
from minigpts.profiling.statistics import COUNT, cosine_name, heads_name, mlp_name
from minigpts.vocabulary import counts

SEED = 0
WORDS = 60_000
DOMAIN_WORDS = 25_000  # of the words, those that the domain's text holds: about half the tokens spell them
PROFILED_TOKENS = 4096  # that the made-up statistics claim to be of


@dataclass(frozen=True)
class RealModel:
    """A published model, and what one unit of it holds, worked out by hand from its architecture."""

    repo_id: str
    config: dict[str, Any]  # of the hub's config.json, what transformers' defaults don't say
    num_parameters: int  # the published model's, a tied lm_head counted once
    tokenizer: Callable[[list[str]], Tokenizer]
    num_tokens: int  # of the tokenizer; the embedding may have more rows
    parameters_per_neuron: int  # columns and rows of the MLP's matrices, and entries of their biases
    parameters_per_token: int  # a row of the embedding, and of the lm_head and its bias where it has its own


def _codegen_like(words: list[str]) -> Tokenizer:
    """GPT-2's 50,257 tokens, then CodeGen's 38 runs of spaces and tabs, which are added tokens but not special."""
    tokenizer = _trained_byte_level(words, 50_256, [])
    tokenizer.add_special_tokens(["<|endoftext|>"])
    runs = [" " * length for length in range(31, 1, -1)] + ["\t" * length for length in range(9, 1, -1)]
    tokenizer.add_tokens([AddedToken(run, normalized=True) for run in runs])
    return tokenizer


def _opt_like(words: list[str]) -> Tokenizer:
    """GPT-2's splitting with Fairseq's special tokens first; an end-of-text token goes before every text."""
    tokenizer = _trained_byte_level(words, 50_265, ["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)])
    return tokenizer


def _trained_byte_level(words: list[str], size: int, special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return _trained(tokenizer, [f" {word}" for word in words], size, special, alphabet)


def _llama_like(words: list[str]) -> Tokenizer:
    """SentencePiece-style BPE with byte fallback: three special tokens, 256 bytes, then merges; ``▁`` for a space."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = _trained(tokenizer, words, 32_000, ["<unk>", "<s>", "</s>", *byte_tokens], [])
    definition = json.loads(tokenizer.to_str())
    definition["added_tokens"] = definition["added_tokens"][:3]  # the trainer takes the bytes' tokens for special ones
    tokenizer = Tokenizer.from_str(json.dumps(definition))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def _trained(tokenizer: Tokenizer, words: list[str], size: int, special: list[str], alphabet: list[str]) -> Tokenizer:
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(words, trainer)
    return tokenizer


MODELS = {
    "phi-1.5": RealModel(
        repo_id="microsoft/phi-1_5",
        config=dict(
            model_type="phi",
            vocab_size=51200,
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=24,
            num_attention_heads=32,
            partial_rotary_factor=0.5,
            max_position_embeddings=2048,
            tie_word_embeddings=False,
            bos_token_id=50256,  # null on the hub; its tokenizer says so
            eos_token_id=50256,
        ),
        num_parameters=1_418_270_720,
        tokenizer=_codegen_like,
        num_tokens=50_295,
        parameters_per_neuron=2 * 2048 + 1,
        parameters_per_token=2 * 2048 + 1,
    ),
    "opt-1.3b": RealModel(
        repo_id="facebook/opt-1.3b",
        config=dict(
            model_type="opt",
            vocab_size=50272,
            hidden_size=2048,
            word_embed_proj_dim=2048,
            ffn_dim=8192,
            num_hidden_layers=24,
            num_attention_heads=32,
            max_position_embeddings=2048,
            do_layer_norm_before=True,
            tie_word_embeddings=True,
            bos_token_id=2,
            eos_token_id=2,
            pad_token_id=1,
        ),
        num_parameters=1_315_758_080,
        tokenizer=_opt_like,
        num_tokens=50_265,
        parameters_per_neuron=2 * 2048 + 1,
        parameters_per_token=2048,
    ),
    "sheared-llama-1.3b": RealModel(
        repo_id="princeton-nlp/Sheared-LLaMA-1.3B",
        config=dict(
            model_type="llama",
            vocab_size=32000,
            hidden_size=2048,
            intermediate_size=5504,
            num_hidden_layers=24,
            num_attention_heads=16,
            num_key_value_heads=16,
            max_position_embeddings=4096,
            rms_norm_eps=1e-5,
            tie_word_embeddings=False,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        ),
        num_parameters=1_345_423_360,
        tokenizer=_llama_like,
        num_tokens=32_000,
        parameters_per_neuron=3 * 2048,
        parameters_per_token=2 * 2048,
    ),
    "llama-2-7b": RealModel(
        repo_id="meta-llama/Llama-2-7b-hf",
        config=dict(
            model_type="llama",
            vocab_size=32000,
            hidden_size=4096,
            intermediate_size=11008,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=32,
            max_position_embeddings=4096,
            rms_norm_eps=1e-5,
            tie_word_embeddings=False,
            bos_token_id=1,
            eos_token_id=2,
        ),
        num_parameters=6_738_415_616,
        tokenizer=_llama_like,
        num_tokens=32_000,
        parameters_per_neuron=3 * 4096,
        parameters_per_token=2 * 4096,
    ),
}


def with_layers(model: RealModel, num_layers: int) -> RealModel:
    """The same model of its first layers alone."""
    config = {**model.config, "num_hidden_layers": num_layers}
    shapes = (stored_shapes(AutoConfig.for_model(**each, dtype="bfloat16")) for each in (model.config, config))
    whole, fewer = map(num_parameters, shapes)
    return replace(model, config=config, num_parameters=model.num_parameters - whole + fewer)


def make(model: RealModel, folder: Path) -> None:
    """Write ``folder``: ``base`` (the checkpoint), ``text.parquet``, ``counts.parquet``, ``stats.safetensors``."""
    config = AutoConfig.for_model(**model.config, dtype="bfloat16")
    config.architectures = [AutoModelForCausalLM._model_mapping[type(config)].__name__]
    words = _words(WORDS, SEED)
    tokenizer = model.tokenizer(words)
    assert counts.num_ids(tokenizer) == model.num_tokens, (counts.num_ids(tokenizer), model.num_tokens)
    _write_checkpoint(folder / "base", config, tokenizer, model.num_parameters)
    rng = np.random.default_rng(SEED)
    domain = words[:DOMAIN_WORDS]
    artifacts.write_table(folder / "text.parquet", {"text": [" ".join(rng.choice(domain, 100)) for _ in range(100)]})
    counts.write_counts(folder / "counts.parquet", tokenizer, counts.count_tokens(tokenizer, [" ".join(domain)]))
    write_tensors(folder / "stats.safetensors", dict(_statistics(config)))


def _words(count: int, seed: int) -> list[str]:
    """Distinct made-up words of one to four syllables, so that BPE has something to learn."""
    syllables = [first + vowel + last for first in "bcdfghklmnprstvz" for vowel in "aeiou" for last in ("", "l", "n", "r", "s")]
    rng = np.random.default_rng(seed)
    words: dict[str, None] = {}
    while len(words) < count:
        lengths, picks = rng.integers(1, 5, count), rng.integers(len(syllables), size=(count, 4))
        words |= dict.fromkeys("".join(syllables[pick] for pick in row[:n]) for n, row in zip(lengths, picks.tolist(), strict=True))
    return list(words)[:count]


def _write_checkpoint(folder: Path, config: PreTrainedConfig, tokenizer: Tokenizer, num_parameters: int) -> None:
    config.save_pretrained(folder)
    GenerationConfig.from_model_config(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {"bos_token": config.bos_token_id, "eos_token": config.eos_token_id}
    roles = {role: token for role, number in ids.items() if (token := tokenizer.id_to_token(number)) is not None}
    assert roles.keys() == ids.keys(), "the tokenizer was trained with the model's special tokens"
    artifacts.write_json(folder / "tokenizer_config.json", tokenizer_settings(config.max_position_embeddings, roles))
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in AutoModelForCausalLM.from_config(config).named_parameters()}
    total = sum(math.prod(shape) for shape in shapes.values())
    assert total == num_parameters, f"{total:,} parameters, but the published model has {num_parameters:,}"
    _write_random_weights(folder / WEIGHTS, shapes)


def _write_random_weights(path: Path, shapes: Mapping[str, torch.Size]) -> None:
    """bfloat16 weights, N(0, 0.02²), norms' gains around one."""
    generator = torch.Generator().manual_seed(SEED)
    with path.open("wb") as file:
        writer = TensorWriter(file, shapes, torch.bfloat16, {"format": "pt"})
        for name in sorted(shapes):
            mean = 1.0 if len(shapes[name]) == 1 and name.endswith("weight") else 0.0
            writer.write(name, torch.empty(shapes[name], dtype=torch.bfloat16).normal_(mean, 0.02, generator=generator))


def _statistics(config: PreTrainedConfig) -> Iterator[tuple[str, torch.Tensor]]:
    """What profile_activations writes, but made up: means over [0, 1)."""
    generator = torch.Generator().manual_seed(SEED)
    width = getattr(config, "ffn_dim", None) or config.intermediate_size
    yield COUNT, torch.tensor(PROFILED_TOKENS)
    for index in range(config.num_hidden_layers):
        mean = torch.rand(width, generator=generator, dtype=torch.float64)
        yield mlp_name(index, "abs_sum"), PROFILED_TOKENS * mean
        yield mlp_name(index, "sum"), PROFILED_TOKENS * mean / 2
        yield mlp_name(index, "square_sum"), PROFILED_TOKENS * 2 * mean.square()
        heads = torch.rand(config.num_attention_heads, generator=generator, dtype=torch.float64)
        yield heads_name(index, "square_sum"), PROFILED_TOKENS * heads
        cosine = torch.rand((), generator=generator, dtype=torch.float64)
        yield cosine_name(index), PROFILED_TOKENS * cosine
