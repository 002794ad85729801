"""What a model writes after a prompt: greedy decoding, in fp32, the same on every run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from minigpts.errors import UserError
from minigpts.model import checkpoint, packing


def continuations(directory: Path, prompts: Sequence[str], max_new_tokens: int, exported: Path | None = None) -> list[str]:
    """The text that the checkpoint in ``directory``, or the file made from it in ``exported``, adds to each prompt.

    It ends at the end-of-text token or after ``max_new_tokens``.
    Of the special tokens that the tokenizer adds, those before the prompt are kept: behind an end token nothing goes on.
    Raises UserError for a prompt that, with its continuation, doesn't fit the model's positions.
    """
    if not prompts:
        return []
    import torch

    from minigpts.gguf_layout import read_back

    load = checkpoint.load_model if exported is None else partial(read_back.load_model, exported)
    model = load(directory, torch.float32)
    tokenizer = checkpoint.load_tokenizer(directory)
    limit = getattr(model.config, "max_position_embeddings", None)
    texts = []
    for prompt in tqdm(prompts, desc=f"samples of {(exported or directory).name}", unit="prompt"):
        ids = torch.tensor([packing.prompt_ids(tokenizer.backend_tokenizer, prompt)])  # (1, prompt tokens)
        length = ids.shape[1]
        if limit is not None and length + max_new_tokens > limit:
            raise UserError(
                f"params.yaml: report.prompts: {prompt!r} has {length} tokens; with max_new_tokens {max_new_tokens} that is more"
                f" than the {limit} positions of {directory}; shorten it"
            )
        with torch.inference_mode():
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                repetition_penalty=1.0,
                pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0,  # one sequence: never used
            )
        # Decoded behind the prompt: by itself, SentencePiece's decoder would drop the space that the continuation begins with.
        shown, whole = (tokenizer.decode(tokens, skip_special_tokens=True) for tokens in (ids[0], output[0]))
        texts.append(whole.removeprefix(shown))
    return texts
