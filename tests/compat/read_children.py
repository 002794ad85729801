"""What somebody with any version of transformers makes of checkpoint folders; tests.compat.check runs it under two versions.

`python -I read_children.py OUT TEXTS FOLDER...` writes OUT.json and OUT.safetensors, keyed by the folders. TEXTS is a JSON
list of strings. Needs torch and transformers.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

SEQUENCE = 48  # ids of the forward pass, the tokenizer's own from 3 on: longer than the tiny models' attention windows
MAX_LENGTH = 512  # tokens of a text that are scored
MESSAGES = [{"role": "system", "content": "You know organs."}, {"role": "user", "content": "Where is the heart?"}]

sys.modules["minigpts"] = None  # type: ignore[assignment]  # wherever it may be installed, importing it fails


def load(kind: Any, folder: Path) -> tuple[Any, list[str]]:
    options: dict[str, Any] = {"torch_dtype": torch.float32, "output_loading_info": True}
    if json.loads((folder / "config.json").read_text()).get("attn_logit_softcapping") is not None:
        options["attn_implementation"] = "eager"  # 4 takes one that ignores it: see minigpts/model/transformers4.py
    model, info = kind.from_pretrained(folder, trust_remote_code=True, **options)
    return model.eval(), sorted(f"{problem} {name}" for problem, names in info.items() for name in names)


def read_tokenizer(folder: Path, texts: list[str]) -> tuple[Any, dict[str, Any]]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(text)["input_ids"] for text in texts]
    roles = {role: tokenizer.convert_tokens_to_ids(token) for role, token in tokenizer.special_tokens_map.items()}
    return tokenizer, {
        "ids": ids,
        "decoded": [tokenizer.decode(line) for line in ids],
        "decoded without special": [tokenizer.decode(line, skip_special_tokens=True) for line in ids],
        "inputs": sorted(tokenizer("heart")),
        "special tokens": roles,
        "length": [len(tokenizer), tokenizer.model_max_length],
        "chat": tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
        if tokenizer.chat_template
        else None,
    }


def generate(model: Any, tokenizer: Any, text: str) -> list[list[int]]:
    """Greedy, as the tokenizer's output goes into the model, and so that nothing but the folder's settings decides."""
    inputs = tokenizer(text, return_tensors="pt")
    return model.generate(**inputs, max_new_tokens=8, min_new_tokens=8, do_sample=False).tolist()


def bits_per_byte(model: Any, tokenizer: Any, texts: list[str]) -> float:
    """Of all texts, each scored from its second token on."""
    nats, num_bytes = 0.0, 0
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"][:MAX_LENGTH]])
        if ids.shape[1] > 1:
            likelihoods = model(ids).logits[0, :-1].double().log_softmax(-1)
            nats -= float(likelihoods.gather(1, ids[0, 1:, None]).sum())
            num_bytes += len(text.encode())
    return nats / math.log(2) / num_bytes


def read(folder: Path, texts: list[str]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    tokenizer, facts = read_tokenizer(folder, texts)
    model, problems = load(AutoModelForCausalLM, folder)
    if hasattr(model.config, "auto_map"):
        bare, bare_problems = load(AutoModel, folder)
        problems += [problem for problem in bare_problems if "lm_head" not in problem and "embed_out" not in problem]
    else:  # AutoModel's stock classes are the two versions' own affair: 4 loads nothing into Gemma 3's
        bare = getattr(model, "model", model.base_model)
    ids = (torch.arange(SEQUENCE) * 5 % (len(tokenizer) - 3) + 3)[None]
    tensors = {"logits": model(ids).logits, "hidden": bare(ids).last_hidden_state}
    written = json.loads((folder / "generation_config.json").read_text())
    known = GenerationConfig.from_pretrained(folder).to_dict()
    facts |= {
        "problems": problems,
        "greedy": generate(model, tokenizer, texts[0]),
        "generation config": {name: known.get(name) for name in written if name != "transformers_version"},
        "bits per byte": bits_per_byte(model, tokenizer, texts),
    }
    return facts, tensors


def main(out: Path, texts: list[str], folders: list[Path]) -> None:
    torch.set_grad_enabled(False)
    facts: dict[str, Any] = {"version": transformers.__version__}
    tensors: dict[str, torch.Tensor] = {}
    for folder in folders:
        try:
            facts[str(folder)], found = read(folder, texts)
        except Exception as error:  # a child that this version can't read is a finding
            facts[str(folder)], found = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}, {}
        tensors |= {f"{folder} {name}": tensor.contiguous() for name, tensor in found.items()}
    save_file(tensors, f"{out}.safetensors")
    Path(f"{out}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), [Path(folder) for folder in sys.argv[3:]])
