"""Reads a llama.cpp GGUF file: weights, config, tokenizer and chat template of a Llama, from its metadata alone.

Where each tensor lies is told in :mod:`minigpts.gguf_layout.places`; an absent ``output.weight`` means a tied head.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpts.errors import UserError, blaming
from minigpts.gguf_layout.architectures import LLAMA
from minigpts.gguf_layout.places import places
from minigpts.gguf_layout.read_back import values
from minigpts.importing.imported import Description, ImportedModel
from minigpts.importing.imported import describe as describe_parts
from minigpts.importing.requirements import Origins
from minigpts.importing.staging import require_layers
from minigpts.model import checkpoint

if TYPE_CHECKING:
    import torch
    from gguf import GGUFReader
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer
    from transformers import PreTrainedConfig

SPECIAL_ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
MINUS_ONE = (-1, 2**32 - 1)  # no such token, in signed and in unsigned numbers
CONTROL, USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type (gguf.TokenType)


def read(path: Path, dtype: torch.dtype) -> ImportedModel:
    """Read a GGUF file of architecture ``llama`` with a byte-level BPE tokenizer, its weights dequantized into ``dtype``.

    Raises UserError for a damaged file, another architecture, whatever the file holds that stock Llama doesn't, and what a
    later stage would refuse.
    """
    reader, description = _described(path, dtype)
    with blaming(path, "its tensors don't fit its metadata"):
        return ImportedModel(description, _weights(path, reader, description.config))


def describe(path: Path, dtype: torch.dtype) -> Description:
    """The model without its weights, from the file's metadata alone. Raises UserError as :func:`read`."""
    return _described(path, dtype)[1]


def _described(path: Path, dtype: torch.dtype) -> tuple[GGUFReader, Description]:
    from transformers import GenerationConfig

    with blaming(path, "not a whole GGUF file, fetch it again"):
        reader = _opened(path)
    with blaming(path, "its metadata don't describe a model"):
        metadata = Metadata(path, reader)
        config = _config(metadata, reader, dtype)
        generation = GenerationConfig(**{name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")})
        tokens = metadata["tokenizer.ggml.tokens"]
        tokenizer, template = _tokenizer(metadata, tokens), metadata.get("tokenizer.chat_template", None)
        special = {role: tokens[token_id] for role, token_id in _special_ids(metadata).items()}
    origins = Origins(*[str(path)] * 4)
    return reader, describe_parts(config, generation, tokenizer, special, template, origins)


def _opened(path: Path) -> GGUFReader:
    """The file's fields and tensors. The library takes what lies behind the file's end for nothing, as often as a count says."""
    from gguf import GGUFReader

    class Whole(GGUFReader):
        def _get(self, offset: int, dtype: Any, count: int = 1, *order: Any, **named: Any) -> Any:
            found = super()._get(offset, dtype, count, *order, **named)
            if len(found) < count:
                raise ValueError("it ends early")
            return found

    return Whole(path)


class Metadata:
    """The file's key-value section; a key that is absent and has no default is the user's to know."""

    def __init__(self, path: Path, reader: GGUFReader) -> None:
        """Read ``reader``'s fields; ``path`` is for messages."""
        self.path = path
        self._fields = reader.fields

    def __getitem__(self, key: str) -> Any:
        """The value of ``key``. Raises UserError when the file hasn't got it."""
        if key not in self._fields:
            raise UserError(f"{self.path}: no metadata '{key}'; the file isn't a whole language model")
        return self._fields[key].contents()

    def get(self, key: str, default: Any) -> Any:
        """The value of ``key``, or ``default``."""
        return self[key] if key in self._fields else default

    def expect(self, key: str, value: object, default: object) -> None:
        """Raise a UserError unless ``key`` (or ``default`` in its absence) has the one value that is supported."""
        if (got := self.get(key, default)) != value:
            raise UserError(f"{self.path}: {key} is {got!r}; only {value!r} is supported")


def _config(metadata: Metadata, reader: GGUFReader, dtype: torch.dtype) -> PreTrainedConfig:
    """Stock Llama's config from the ``llama.*`` keys."""
    from transformers import LlamaConfig

    metadata.expect("general.architecture", "llama", None)
    require_layers(metadata.path, "llama.block_count", metadata["llama.block_count"])
    hidden_size, num_heads = metadata["llama.embedding_length"], metadata["llama.attention.head_count"]
    widths = (num_heads, metadata.get("llama.attention.head_count_kv", num_heads), metadata["llama.feed_forward_length"])
    if any(isinstance(width, list) for width in widths):
        raise UserError(f"{metadata.path}: its head counts or MLP widths differ between layers, which stock Llama can't hold")
    head_dim = metadata.get("llama.attention.key_length", hidden_size // num_heads)
    metadata.expect("llama.attention.value_length", head_dim, head_dim)
    metadata.expect("llama.rope.dimension_count", head_dim, head_dim)
    metadata.expect("llama.rope.scaling.type", "none", "none")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if "token_embd.weight" not in tensors:
        raise UserError(f"{metadata.path}: no tensor 'token_embd.weight'; the file isn't a whole language model")
    ids = _special_ids(metadata)
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype=dtype,
        vocab_size=int(tensors["token_embd.weight"].shape[-1]),
        hidden_size=hidden_size,
        intermediate_size=widths[2],
        num_hidden_layers=metadata["llama.block_count"],
        num_attention_heads=num_heads,
        num_key_value_heads=widths[1],
        head_dim=head_dim,
        max_position_embeddings=metadata["llama.context_length"],
        rms_norm_eps=_shortest(metadata["llama.attention.layer_norm_rms_epsilon"]),
        rope_parameters={"rope_type": "default", "rope_theta": _shortest(metadata.get("llama.rope.freq_base", 10000.0))},
        tie_word_embeddings="output.weight" not in tensors,
        bos_token_id=ids.get("bos_token"),
        eos_token_id=ids.get("eos_token"),
        pad_token_id=ids.get("pad_token"),
    )


def _shortest(value: float) -> float:
    """A float32 of the metadata as the decimal number it was rounded from: 1e-05, not 9.999999747378752e-06."""
    import numpy

    return float(str(numpy.float32(value)))


def _special_ids(metadata: Metadata) -> dict[str, int]:
    """Token ids of the roles that the file names. Raises UserError for one that is none of its tokens."""
    ids, num_tokens = {}, len(metadata["tokenizer.ggml.tokens"])
    for role, key in SPECIAL_ROLES.items():
        name = f"tokenizer.ggml.{key}_token_id"
        token_id = metadata.get(name, None)
        if token_id is None or token_id in MINUS_ONE:
            continue
        if not 0 <= token_id < num_tokens:
            raise UserError(f"{metadata.path}: {name} is {token_id}, but the file has {num_tokens} tokens")
        ids[role] = int(token_id)
    return ids


def _weights(path: Path, reader: GGUFReader, config: PreTrainedConfig) -> dict[str, torch.Tensor]:
    """Every tensor under its stock name. One tensor at a time is in float32, so memory stays near the result's own.

    A tensor without a place in stock Llama would be lost silently, so it is refused.
    """
    import torch
    from tqdm import tqdm

    stored = {tensor.name: tensor for tensor in reader.tensors}
    found = places(LLAMA, config, checkpoint.stored_shapes(config))
    for name in sorted(stored.keys() - {place.name for place in found.values()}):
        raise UserError(f"{path}: tensor '{name}' has no place in stock Llama; the file isn't supported")
    return {
        name: torch.from_numpy(values(path, stored, place)).to(config.dtype)
        for name, place in tqdm(found.items(), desc="dequantizing", unit="tensor", disable=None)
    }


def _pre_tokenizer(metadata: Metadata) -> PreTokenizer:
    """llama.cpp names its text splits; these are the same ones in ``tokenizers``' terms."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    gpt2 = ByteLevel(add_prefix_space=False, use_regex=True)
    known = {"gpt-2": gpt2, "smollm": Sequence([Digits(individual_digits=True), gpt2])}
    name = metadata["tokenizer.ggml.pre"]
    if name not in known:
        raise UserError(f"{metadata.path}: pre-tokenizer '{name}' is not supported; supported: {', '.join(known)}")
    return known[name]


def _tokenizer(metadata: Metadata, tokens: list[str]) -> Tokenizer:
    """The byte-level BPE tokenizer. Control tokens are special: matched whole in any text, and skipped when decoding."""
    from tokenizers import AddedToken, Tokenizer, decoders, models

    metadata.expect("tokenizer.ggml.model", "gpt2", None)
    for key in ("add_bos_token", "add_eos_token", "add_space_prefix"):
        metadata.expect(f"tokenizer.ggml.{key}", False, False)
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    with blaming(metadata.path, "its merges contradict its tokens"):
        model = models.BPE({token: index for index, token in enumerate(tokens)}, merges)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = _pre_tokenizer(metadata)
    tokenizer.decoder = decoders.ByteLevel()
    types = metadata["tokenizer.ggml.token_type"]
    added = [(token, kind) for token, kind in zip(tokens, types, strict=True) if kind in (CONTROL, USER_DEFINED)]
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=kind == CONTROL) for token, kind in added])
    return tokenizer
