"""How much faster the smaller model runs, against how much less it has to compute.

python -m benchmarks.ratios.inference [--parent data/checkpoints/base] [--child data/checkpoints/finetuned]

Stock transformers, fp32, batch 1. The two models take turns, so that a busy machine slows both; each turn gives one ratio
and the median of the ratios counts. FLOPs are those of the matrix products, attention's included, counted from shapes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from transformers import PreTrainedModel

from benchmarks.device import DEVICE, wait
from benchmarks.table import Row, print_rows
from minigpts.model import checkpoint
from minigpts.model.families import spec_for

Timed = Callable[[PreTrainedModel], float]  # seconds


def rows(parent: Path, child: Path, prompt_tokens: int = 256, new_tokens: int = 16, repeats: int = 9) -> list[Row]:
    """Prefill of a prompt, and decoding after it with the KV cache: the child's speed over the parent's."""
    models = [checkpoint.load_model(directory, torch.float32).to(DEVICE) for directory in (parent, child)]

    def prefill(model: PreTrainedModel) -> float:
        return _prefill(model, prompt_tokens)[0]

    def decode(model: PreTrainedModel) -> float:
        return _decode(model, prompt_tokens, new_tokens)

    read, written = range(prompt_tokens), range(prompt_tokens, prompt_tokens + new_tokens)
    return [
        _row(f"prefill of {prompt_tokens} tokens", prefill, models, [flops(model, read, 1) for model in models], repeats),
        _row(f"decoding {new_tokens} tokens", decode, models, [flops(model, written, new_tokens) for model in models], repeats),
    ]


def decoding_speedup(parent: Path, child: Path, prompt_tokens: int = 64, new_tokens: int = 16, repeats: int = 5) -> float:
    """Tokens/s of the child's greedy decoding over the parent's."""
    models = [checkpoint.load_model(directory, torch.float32).to(DEVICE) for directory in (parent, child)]
    return _speedup(lambda model: _decode(model, prompt_tokens, new_tokens), models, repeats)


def _speedup(work: Timed, models: list[PreTrainedModel], repeats: int) -> float:
    for model in models:
        work(model)  # warms the allocator
    seconds = [[work(model) for model in models] for _ in range(repeats)]
    return median(parent / child for parent, child in seconds)


def _row(what: str, work: Timed, models: list[PreTrainedModel], num_flops: list[int], repeats: int) -> Row:
    speedup = _speedup(work, models, repeats)
    ratio = num_flops[0] / num_flops[1]
    measured = f"{speedup / ratio:.2f} ({speedup:.2f} × the speed at {ratio:.2f} × fewer FLOPs)"
    return f"{what}: child's speed over parent's, over the ratio of their FLOPs", measured, "≥ 0.85"


def flops(model: PreTrainedModel, positions: range, num_logits: int) -> int:
    """Of the matrix products that compute the tokens at ``positions`` and ``num_logits`` rows of logits."""
    spec = spec_for(model.config.model_type)
    linears = [module for module in model.get_submodule(spec.decoder).modules() if isinstance(module, torch.nn.Linear)]
    layers = range(len(model.get_submodule(spec.layers)))
    heads = sum(model.get_submodule(spec.layer(index, spec.attention_out)).in_features for index in layers)
    multiply_adds = (
        len(positions) * sum(linear.weight.numel() for linear in linears)
        + num_logits * model.get_submodule(spec.lm_head).weight.numel()
        + 2 * heads * sum(position + 1 for position in positions)  # queries × keys, and weights × values
    )
    return 2 * multiply_adds


@torch.inference_mode()
def _prefill(model: PreTrainedModel, prompt_tokens: int) -> tuple[float, object]:
    """Seconds to read a prompt as ``generate`` does, with the logits of its last token only; and the KV cache."""
    prompt = torch.arange(prompt_tokens, device=DEVICE)[None] % model.config.vocab_size
    start = time.perf_counter()
    cache = model(prompt, use_cache=True, logits_to_keep=1).past_key_values
    wait()
    return time.perf_counter() - start, cache


@torch.inference_mode()
def _decode(model: PreTrainedModel, prompt_tokens: int, new_tokens: int) -> float:
    """Seconds a token, the median over greedy decoding after an untimed prompt."""
    cache = _prefill(model, prompt_tokens)[1]
    token = torch.zeros(1, 1, dtype=torch.long, device=DEVICE)
    seconds = []
    for _ in range(new_tokens):
        start = time.perf_counter()
        token = model(token, past_key_values=cache, use_cache=True).logits[:, -1].argmax(-1, keepdim=True)
        wait()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parent", type=Path, default=Path("data/checkpoints/base"), help="default: %(default)s")
    parser.add_argument("--child", type=Path, default=Path("data/checkpoints/finetuned"), help="default: %(default)s")
    arguments = parser.parse_args()
    print_rows(rows(arguments.parent, arguments.child))


if __name__ == "__main__":
    main()
