"""What somebody without this project does with its checkpoint folders; test_modeling runs it in a process of its own.

`python -I load_shipped.py OUT FOLDER...` writes OUT/facts.json and OUT/tensors.safetensors, keyed by the folders' parents.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

sys.modules["minigpts"] = None  # type: ignore[assignment]  # wherever it may be installed, importing it fails


def load(folder: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **options)


def bare(folder: Path) -> Any:
    """The decoder without its head, all of it from the folder."""
    model, loading = AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["mismatched_keys"], loading
    return model


def refusal(folder: Path) -> str:
    """What loading without trust, hence into the stock class, says; empty if it loads."""
    try:
        AutoModelForCausalLM.from_pretrained(folder)
    except RuntimeError as error:
        return str(error)
    return ""


def generate(model: Any, ids: torch.Tensor, use_cache: bool) -> Any:
    lengths = {"max_new_tokens": 3, "min_new_tokens": 3}
    return model.generate(ids, **lengths, do_sample=False, use_cache=use_cache, output_logits=True, return_dict_in_generate=True)


def train_one_step(model: Any, ids: torch.Tensor) -> tuple[float, float, list[str]]:
    """The loss before and after, and the parameters that no gradient reached."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = model.train()(ids, labels=ids).loss
    before.backward()
    unreached = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    optimizer.step()
    return before.item(), model.eval()(ids, labels=ids).loss.item(), unreached


def main(out: Path, folders: list[Path]) -> None:
    ids = torch.arange(3, 53).reshape(2, 25)
    facts, tensors = {}, {"ids": ids}
    for folder in folders:
        name = folder.parent.name
        model, loading = load(folder, output_loading_info=True)
        with torch.no_grad():
            tensors[f"{name}.logits"] = model(ids).logits
            tensors[f"{name}.hidden"] = getattr(model, "model", model.base_model)(ids).last_hidden_state
            tensors[f"{name}.hidden of AutoModel"] = bare(folder)(ids).last_hidden_state
            tensors[f"{name}.logits in bfloat16"] = load(folder, dtype=torch.bfloat16)(ids).logits
        for key, cache in (("with cache", True), ("without cache", False)):
            generated = generate(model, ids, use_cache=cache)
            tensors[f"{name}.generated {key}"] = generated.sequences
            tensors[f"{name}.logits {key}"] = torch.stack(generated.logits)
        again = out / name / folder.name
        model.save_pretrained(again)
        with torch.no_grad():
            tensors[f"{name}.logits saved again"] = load(again)(ids).logits
        fresh = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), trust_remote_code=True)
        facts[name] = {
            "class": type(model).__name__,
            "loading": {key: sorted(map(str, value)) for key, value in loading.items()},
            "refusal": refusal(folder),
            "initial_std": max(float(p.std()) for p in fresh.parameters() if p.dim() > 1),
            "training": train_one_step(model, ids),
        }
    save_file(tensors, out / "tensors.safetensors")
    (out / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(folder) for folder in sys.argv[2:]])
