"""Tokenizers of real models that a PyPI wheel carries, written as folders that stock ``AutoTokenizer`` reads."""

from __future__ import annotations

import json
from pathlib import Path

from minigpts.download import wheels
from minigpts.importing import spm

MISTRAL_COMMON = ("mistral-common==1.13.1", "98b4d0755b8d90bf4691fa8f1b70cb3b4a8cd4dc1653c4ed08ef3d1c7d2c29af")
SENTENCEPIECE, TEKKEN = "mistral_common/data/tokenizer.model.v1", "mistral_common/data/tekken_240911.json"


def write_published(directory: Path) -> dict[str, Path]:
    """Download the wheel; gives the folders written below ``directory`` by the tokenizer's name."""
    from transformers.integrations.mistral.tokenizer import MistralConverter

    with wheels.wheel(*MISTRAL_COMMON) as wheel:
        model = wheels.extract_member(wheel, SENTENCEPIECE, directory / "tokenizer.model")
        tekken = directory / "tekken.json"
        tekken.write_text(_with_special_tokens(wheels.read_member(wheel, TEKKEN)), encoding="utf-8")
    tokenizers = {
        "Mistral v1, SentencePiece": spm.read(model, add_bos=True, add_eos=False),
        "Mistral tekken": MistralConverter(str(tekken)).converted(),
    }
    folders = {}
    for place, (name, tokenizer) in enumerate(tokenizers.items()):
        folders[name] = directory / str(place)
        folders[name].mkdir()
        tokenizer.save(str(folders[name] / "tokenizer.json"))
        settings = json.dumps({"tokenizer_class": "TokenizersBackend"})
        (folders[name] / "tokenizer_config.json").write_text(settings, encoding="utf-8")
    return folders


def _with_special_tokens(tekken: bytes) -> str:
    """This file counts its 1,000 special tokens but leaves their names to the package's code, which isn't run here.

    The first three get their names, and transformers' converter numbers the others.
    """
    special = [{"rank": rank, "token_str": token} for rank, token in enumerate(["<unk>", "<s>", "</s>"])]
    return json.dumps({**json.loads(tekken), "special_tokens": special})
