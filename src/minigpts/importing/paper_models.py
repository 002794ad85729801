"""The paper's three models by name: ``model.preset`` in params.yaml.

Every revision is a commit, so that a preset is the same model next year; the commit of a conversion is printed as it is
taken. What the comments say of a repository was gathered from public code that pins it (November 2026), since no hub was in
reach; `fetch_model` finds out in any case.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HubModel:
    """A model on the hub."""

    repo_id: str  # owner/name
    revision: str  # a commit; a branch, a tag or refs/pr/N works too, but may move
    or_conversion: bool = False  # where it has pickled weights alone, take the hub's own conversion to safetensors
    licence: str | None = None  # by the hub's short names, where it is known


PAPER_MODELS = {
    # One model.safetensors, float16. Its tokenizer has 50295 tokens, its embedding 51200 rows.
    "phi-1.5": HubModel("microsoft/phi-1_5", "77aa61eeac94fbf33d492b9f2744c98b42d5b5eb", licence="mit"),
    # OPT-175B licence: research, not commercial. This commit is main since September 2023 and holds pickled weights alone.
    "opt-1.3b": HubModel("facebook/opt-1.3b", "3f5c25d0bc631cb57ac65913f76e22c2dfb61d62", or_conversion=True, licence="other"),
    # Apache-2.0, under Llama 2's licence. Pickled weights alone, as far as is known.
    "sheared-llama-1.3b": HubModel(
        "princeton-nlp/Sheared-LLaMA-1.3B", "a4b76938edbf571ea7d7d9904861cbdca08809b4", or_conversion=True, licence="apache-2.0"
    ),
}
