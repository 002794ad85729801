"""Ollama's ``Modelfile``, which lies beside the file."""

from __future__ import annotations

from pathlib import Path

from minigpts.exporting.chat_template import ollama_template, turn_end
from minigpts.model import checkpoint

MAX_CONTEXT = 4096  # tokens that Ollama keeps room for: more memory than a small model itself needs
TEMPERATURE, REPEAT_PENALTY = 0.3, 1.1  # small models wander and repeat themselves at the usual 0.8 and 1.0


def modelfile(directory: Path, file: str, context_length: int) -> str:
    """Ollama's description of ``file``: template and stop token from the checkpoint's chat template, where it has one."""
    tokenizer = checkpoint.load_fast_tokenizer(directory)
    template, end = ollama_template(directory), turn_end(directory, tokenizer)
    lines = [f"FROM ./{file}"]
    if template is not None:
        lines += [f'TEMPLATE """{template}"""']
    if end is not None:
        lines += [f'PARAMETER stop "{tokenizer.id_to_token(end)}"']
    parameters = {"temperature": TEMPERATURE, "repeat_penalty": REPEAT_PENALTY, "num_ctx": min(context_length, MAX_CONTEXT)}
    return "\n".join([*lines, *(f"PARAMETER {name} {value}" for name, value in parameters.items())]) + "\n"
