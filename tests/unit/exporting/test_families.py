"""Every family in llama.cpp itself: the file says what the checkpoint does, and reads back as the checkpoint."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from benchmarks.llamacpp.run import LlamaCpp
from minigpts.errors import UserError
from minigpts.exporting import gguf_file
from minigpts.exporting.tokenizer_section import tokenizer_section
from minigpts.gguf_layout import read_back
from minigpts.gguf_layout.architectures import ARCHITECTURES
from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from minigpts.model.weights import StoredWeights
from minigpts.quantization.formats import FORMATS, BlockFormat, PackedWeight
from minigpts.quantization.groups import GROUPS, formats_of
from minigpts.quantization.rounding import Cost, rounded
from tests import tiny

NO_WINDOW = {"sliding_window": None}
LONG_CONTEXT = {"max_position_embeddings": 1024, "original_max_position_embeddings": 512}


def packed(weight: torch.Tensor, block_format: BlockFormat) -> PackedWeight:
    """A weight (out_features, in_features) in a format, all inputs alike."""
    return rounded(weight.float(), block_format, Cost(torch.eye(weight.shape[1]))).packed()


def rope(kind, **parameters):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **parameters}}


YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}

# What the tests of other rooms have, and what decides a file besides: widths, rotary scalings, windows. llama.cpp takes
# head_dim for Gemma's query_pre_attn_scalar.
VARIANTS = {
    **tiny.VARIANTS,
    **tiny.MIXTURE_VARIANTS,
    "llama of uneven widths": ("llama", {"intermediate_sizes": [40, 77, 33]}),
    "llama of uneven widths, biased": ("llama", {"intermediate_sizes": [40, 77, 33], "mlp_bias": True, "attention_bias": True}),
    "mistral of uneven widths": ("mistral", {"intermediate_sizes": [40, 77, 33]}),
    "qwen2 of uneven widths": ("qwen2", {"intermediate_sizes": [40, 77, 33], "use_sliding_window": False}),
    "llama 3's rope": (
        "llama",
        rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32),
    ),
    "linear rope": ("llama", rope("linear", factor=4.0)),
    **{
        f"qwen3_5_text of equal heads{name}": (
            "qwen3_5_text",
            {"linear_num_value_heads": 2, "linear_key_head_dim": 32, "linear_value_head_dim": 32, **changes},
        )
        for name, changes in {"": {}, ", tied": {"tie_word_embeddings": True}}.items()
    },
    "lfm2 untied, of a derived width": (
        "lfm2",
        {**tiny.VARIANTS["lfm2 untied, biased, of a derived width"][1], "conv_bias": False},
    ),
    "yarn": ("qwen2", {"use_sliding_window": False, "rope_parameters": YARN}),
    "smollm3 of nothing but rotary layers": ("smollm3", {"no_rope_layers": [1, 1, 1], "use_sliding_window": False}),
    "nemotron of heads as wide as the hidden size": ("nemotron", {"head_dim": 10, **rope("default", partial_rotary_factor=0.4)}),
    "glm of heads as wide as the hidden size": ("glm", {"head_dim": 10, **rope("default", partial_rotary_factor=0.4)}),
    "ministral3 without yarn": ("ministral3", rope("default", llama_4_scaling_beta=0.1, original_max_position_embeddings=16)),
    "longrope": (
        "phi3",
        {**NO_WINDOW, **LONG_CONTEXT, **rope("longrope", short_factor=[1.0, 1.1, 1.2, 1.3, 1.4], long_factor=[1.0, 2, 3, 4, 5])},
    ),
    "gemma2 of windows only": ("gemma2", {"layer_types": ["sliding_attention"] * 3}),
    "gemma2 of irregular windows": ("gemma2", {"layer_types": ["sliding_attention", "full_attention", "full_attention"]}),
}
REFUSED = {
    "qwen3 tied, biased, windowed": "can't hold attention_bias: True",
    "gpt_neox tied, in sequence": "can't hold attention_bias: False",
    **{
        variant: f"no architecture of llama.cpp is declared for {family}"
        for variant, (family, _) in {**tiny.VARIANTS, **tiny.MIXTURE_VARIANTS}.items()
        if family not in ARCHITECTURES
    },
    "qwen3_5_text": "can't hold linear_num_key_heads: 2 with linear_num_value_heads: 4",
    "qwen3_5_text tied, biased": "can't hold attention_bias: True",
    "qwen3_moe tied, a layer dense": r"can't hold mlp_only_layers: \[1\]",
    "qwen2_moe tied, gates summing to one": "can't hold norm_topk_prob: True",
    "olmoe, gates summing to one": "can't hold norm_topk_prob: True",
    "gemma2 untied": "has no place for an untied lm_head",
    "gemma untied": "has no place for an untied lm_head",
    "lfm2 untied, biased, of a derived width": "can't hold conv_bias: True",
    "smollm3": "has no rotary embedding in every 4th layer and one in the others",
    "smollm3 untied, biased": "can't hold attention_bias: True",
    "seed_oss tied, biased": "can't hold attention_out_bias: True",
    "olmo tied, biased": "can't hold attention_bias: True",
    "ernie4_5 tied, biased": "can't hold use_bias: True",
    "exaone4": "can't hold sliding_window: 12",
    "arcee tied, biased": "can't hold attention_bias: True",
    "jais2 unbiased": "can't hold attention_bias: False",
    "nemotron": "needs heads that fill the hidden size",
    "glm": "needs heads that fill the hidden size",
    "glm unbiased": "needs heads that fill the hidden size",
    "starcoder2 untied, unbiased": "can't hold use_bias: False",
    "gpt_bigcode untied, of equal heads": "can't hold multi_query: False",
    "cohere untied, biased": "can't hold attention_bias: True",
    "cohere of normalized heads": "can't hold use_qk_norm: True",
}


def written(folder, variant, dtype=torch.float32):
    """The checkpoint of a variant and the file made from it."""
    family, changes = VARIANTS[variant]
    if family.startswith("gemma"):
        changes = {**changes, "query_pre_attn_scalar": 14}
    model = tiny.write_checkpoint(folder / "checkpoint", family, dtype=dtype, **changes)
    return model, *export(model, folder / "model.gguf")


def export(model, path, formats=None, replaced=None):
    config, stored = checkpoint.load_config(model), StoredWeights(model)
    section = tokenizer_section(model, config.vocab_size)
    weights = ((name, (replaced or {}).get(name, tensor)) for name, tensor in reversed([*stored.items()]))
    return path, gguf_file.write(path, config, stored.shapes, formats or {}, section, weights)


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant not in REFUSED])
def test_llama_cpp_computes_what_transformers_does(tmp_path, variant):
    model, path, layout = written(tmp_path, variant)
    assert path.stat().st_size == layout.num_bytes
    tokenizer = checkpoint.load_fast_tokenizer(model)
    # Windows are shorter than this text: where llama.cpp has none, the context that the file states is no longer than they.
    config = checkpoint.load_config(model)
    windowed = [kind == "sliding_attention" for kind in getattr(config, "layer_types", None) or []] or [True]
    native = config.model_type.startswith("gemma") and variant != "gemma2 of irregular windows"
    length = 12 if getattr(config, "sliding_window", None) and any(windowed) and not native else 48
    prompt = tokenizer.encode(tiny.sentences(1)[0]).ids[:8]
    loaded = checkpoint.load_model(model, torch.float32)
    with torch.inference_mode():
        greedy = loaded.generate(
            torch.tensor([prompt]), do_sample=False, max_length=length, eos_token_id=config.vocab_size, pad_token_id=0
        )[0]
        expected = torch.log_softmax(loaded(greedy[None]).logits[0].double(), -1).numpy()
    with LlamaCpp(path, context=256) as ours:  # longrope is chosen by the context
        texts = tiny.sentences(10)
        assert [ours.tokenize(text, whole=True) for text in texts] == [tokenizer.encode(text).ids for text in texts]
        found = ours.distributions(greedy.tolist())
    assert len(greedy) == length
    tolerance = 0.03 if config.model_type.startswith("gemma") else 0.005  # Gemma's large activations go through a GELU table
    np.testing.assert_allclose(found, expected, atol=tolerance)
    best_two = np.sort(expected, -1)[:, -2:]
    clear = best_two[:, 1] - best_two[:, 0] > 2 * tolerance  # such models end in loops, where two tokens may be as probable
    assert clear[7:-1].any()
    assert found.argmax(-1)[7:-1][clear[7:-1]].tolist() == greedy[8:][clear[7:-1]].tolist(), "the greedy continuation"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant not in REFUSED])
def test_reads_back_as_the_checkpoint(tmp_path, variant, dtype):
    model, path, _ = written(tmp_path, variant, dtype)
    config, stored = checkpoint.load_config(model), StoredWeights(model)
    found = dict(read_back.DequantizedWeights(path, config, stored.shapes))
    assert found.keys() == stored.keys()
    for name, tensor in stored.items():
        plus_one = config.model_type.startswith(("gemma", "nemotron", "qwen3_5"))
        if name.endswith("A_log"):
            torch.testing.assert_close(found[name].to(dtype), tensor, rtol=0, atol=1.2e-7 if dtype == torch.float32 else 0)
        elif plus_one and tensor.dim() == 1 and dtype == torch.float32:  # rounded where 1 was added
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1.2e-7)
        else:
            assert torch.equal(found[name].to(dtype), tensor), name


@pytest.mark.parametrize(("variant", "reason"), REFUSED.items())
def test_what_llama_cpp_cannot_hold_is_one_line(tmp_path, variant, reason):
    with pytest.raises(UserError, match=reason) as error:
        written(tmp_path, variant)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "model.gguf").exists()


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("gemma3_text", {"intermediate_sizes": [40, 77, 33]}, "set prune_neurons.allocation: uniform"),
        ("gemma2", {}, "takes 14 for query_pre_attn_scalar, not 10"),
        ("phi", {"head_dim": 8}, "needs heads that fill the hidden size"),
        ("llama", {"hidden_act": "relu"}, "can't hold hidden_act: relu"),
        ("llama", rope("dynamic", factor=4.0), "has no rotary scaling 'dynamic'"),
        ("llama", rope("yarn", factor=4.0, beta_fast=8.0), "yarn's beta_fast can't be written"),
        (
            "olmo3",
            {"rope_parameters": {"full_attention": YARN, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
            "has one rotary embedding for all layers",
        ),
        (
            "cohere2",
            {"layer_types": ["sliding_attention", "full_attention", "full_attention"]},
            "needs windows in every layer but each n-th",
        ),
        (
            "gemma3_text",
            {"query_pre_attn_scalar": 14, "layer_types": ["sliding_attention", "full_attention", "full_attention"]},
            "needs windows in every layer but each n-th",
        ),
    ],
)
def test_settings_llama_cpp_lacks_are_one_line(family, changes, reason):
    config = tiny.config(family, 100, dtype=torch.float32, **changes)
    with pytest.raises(UserError, match=reason):
        gguf_file.file_bytes(config, checkpoint.stored_shapes(config), {}, {})


@pytest.mark.parametrize("variant", ["llama", "gpt2", "gpt_neox", "phi tied, grouped"])
def test_packed_rows_are_ordered_as_plain_ones(tmp_path, variant):
    """A weight packed in float16 row by row gives the bytes that the tensor itself gives."""
    model, plain, _ = written(tmp_path, variant)
    stored = StoredWeights(model)
    conv = VARIANTS[variant][0] == "gpt2"
    names = [name for name, shape in stored.shapes.items() if len(shape) == 2]
    formats = dict.fromkeys(names, FORMATS["F16"])
    halves = {}
    for name in names:
        weight = stored[name].T if conv and ".h." in name else stored[name]
        rows = weight.half().contiguous().view(torch.uint8).numpy()
        halves[name] = PackedWeight(FORMATS["F16"], tuple(weight.shape), rows)
    from_tensors, _ = export(model, tmp_path / "tensors.gguf", formats)
    from_packed, layout = export(model, tmp_path / "packed.gguf", formats, halves)
    assert from_packed.read_bytes() == from_tensors.read_bytes()
    assert from_packed.stat().st_size < plain.stat().st_size
    assert layout.num_bytes == from_packed.stat().st_size
    found = dict(read_back.DequantizedWeights(from_packed, checkpoint.load_config(model), stored.shapes))
    for name in names:
        assert torch.equal(found[name], stored[name].half().float()), name


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_blocks_read_back_as_what_they_stand_for(tmp_path, family):
    """Rows of blocks go through the file in llama.cpp's order and come back in transformers'."""
    changes = {"hidden_size": 64, spec_for(family).width_field: 96}
    model = tiny.write_checkpoint(tmp_path / "checkpoint", family, **changes, **({"head_dim": 16} if family == "llama" else {}))
    stored, config = StoredWeights(model), checkpoint.load_config(model)
    formats = formats_of(family, stored.shapes, dict.fromkeys(GROUPS, "Q4_0"))
    conv = {name: spec_for(family).is_transposed(name, stored.shapes[name]) for name in formats}
    weights = {name: packed(stored[name].T if conv[name] else stored[name], formats[name]) for name in formats}
    path, _ = export(model, tmp_path / "model.gguf", formats, weights)
    found = dict(read_back.DequantizedWeights(path, config, stored.shapes))
    for name, weight in weights.items():
        expected = dequantize(weight.data, GGMLQuantizationType.Q4_0)
        np.testing.assert_array_equal(found[name].numpy(), expected.T if conv[name] else expected)
    with LlamaCpp(path) as ours:
        assert np.isfinite(ours.distributions([5, 6, 7])).all()


def test_a_tensor_in_another_format_or_missing_is_an_error(tmp_path):
    model = tiny.write_checkpoint(tmp_path / "checkpoint")
    config, stored = checkpoint.load_config(model), StoredWeights(model)
    formats = {"model.layers.0.mlp.up_proj.weight": FORMATS["Q8_0"]}
    with pytest.raises(ValueError, match="pack it first"):
        gguf_file.write(tmp_path / "model.gguf", config, stored.shapes, formats, {}, stored.items())
    with pytest.raises(ValueError, match=r"not written: model\.norm\.weight"):
        weights = [(name, tensor) for name, tensor in stored.items() if name != "model.norm.weight"]
        gguf_file.write(tmp_path / "model.gguf", config, stored.shapes, {}, {}, weights)
    assert not list(tmp_path.glob("*model.gguf*"))


def test_reading_back_another_checkpoints_file_is_one_line(tmp_path):
    _, path, _ = written(tmp_path, "llama")
    other = tiny.write_checkpoint(tmp_path / "other", "llama", intermediate_size=60)
    with pytest.raises(
        UserError, match=r"expected \(60, 40\); the file is of another model|expected \(40, 60\); the file is of another model"
    ):
        dict(read_back.DequantizedWeights(path, checkpoint.load_config(other), StoredWeights(other).shapes))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="not a whole GGUF file"):
        dict(read_back.DequantizedWeights(path, checkpoint.load_config(other), StoredWeights(other).shapes))
