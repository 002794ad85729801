"""A mixture of experts trained on five domains, then cut for each: what the choice of experts and of calibration text costs.

python -m benchmarks.experiments.mixture --data FOLDER --work FOLDER [--seed 0]

``--data`` holds a folder a domain with text.jsonl.gz. A model of Qwen 3 MoE's shape (5.5 M parameters, 32 experts, 4 a token) is
trained on sequences of one domain each, about a quarter of an hour on one core, and kept in ``--work``. The table gives
the perplexity with 25, 50 and 75 % fewer experts in every layer, untuned, as a ratio to the uncut model's on the same test text.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from tqdm import trange
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, get_cosine_schedule_with_warmup

from benchmarks.table import markdown, merge
from minigpts import artifacts, params
from minigpts.budget.damage import in_memory
from minigpts.errors import exit_cleanly
from minigpts.model import checkpoint
from minigpts.model.families import spec_for
from minigpts.model.weights import StoredWeights
from minigpts.profiling.recorder import profile
from minigpts.profiling.statistics import Statistics
from minigpts.pruning import cutting, refit
from minigpts.pruning.params import ByThreshold, ExpertCriterion, Params

SEPARATOR, VOCAB_SIZE, LENGTH, BATCH = "<|endoftext|>", 4096, 128, 10
TRAIN_TOKENS, CALIBRATION_TOKENS, TEST_TOKENS = 1_000_000, 24_576, 8_192  # of all domains; of each
SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 384,
    "moe_intermediate_size": 96,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "norm_topk_prob": True,
    "router_aux_loss_coef": 0.001,  # Qwen 3 MoE's own
    "initializer_range": 0.06,
    "tie_word_embeddings": True,
    "max_position_embeddings": LENGTH,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


SHARES = (0.25, 0.5, 0.75)  # of the experts, removed
REFITTED = " + refit"
CHOICES = (*get_args(ExpertCriterion), f"contribution{REFITTED}")
RESULTS = Path("benchmarks/results")


@dataclass(frozen=True)
class Domain:
    """The sequences of one domain, (sequences, LENGTH) each."""

    train: Tensor
    calibration: Tensor
    test: Tensor


def read_texts(data: Path, seed: int) -> dict[str, list[str]]:
    """The documents of every domain, shuffled, as many as training can use."""
    found = {}
    for path in sorted(data.glob("*/text.jsonl.gz")):
        texts: list[str] = Dataset.from_json(str(path))["text"]
        order = np.random.default_rng(seed).permutation(len(texts))
        found[path.parent.name] = [texts[index] for index in order]
    return found


def train_tokenizer(texts: dict[str, list[str]], path: Path) -> Tokenizer:
    """A byte-level BPE of VOCAB_SIZE tokens, trained on as much text of every domain; written to ``path``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=[SEPARATOR], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(("\n".join(documents)[:1_000_000] for documents in texts.values()), trainer)
    tokenizer.save(str(path))
    return tokenizer


def split(tokenizer: Tokenizer, texts: list[str], num_train: int) -> Domain:
    """Test, calibration and training sequences, of different documents."""
    documents = iter(texts)

    def packed(num_tokens: int) -> Tensor:
        ids: list[int] = []
        while len(ids) < num_tokens and (text := next(documents, None)) is not None:
            ids += [0, *tokenizer.encode(text).ids]
        return torch.tensor(ids[: min(len(ids), num_tokens) // LENGTH * LENGTH]).view(-1, LENGTH)

    test, calibration = packed(TEST_TOKENS), packed(CALIBRATION_TOKENS)
    return Domain(packed(num_train), calibration, test)


def batches(domains: dict[str, Domain], num_steps: int, seed: int) -> Iterator[Tensor]:
    """BATCH sequences, equally many of every domain."""
    generator = torch.Generator().manual_seed(seed)
    share = BATCH // len(domains)
    for _ in range(num_steps):
        parts = [domain.train[torch.randint(len(domain.train), (share,), generator=generator)] for domain in domains.values()]
        yield torch.cat(parts)


def train(domains: dict[str, Domain], folder: Path, seed: int) -> None:
    """Train the mixture, on the language model's loss and the load-balancing one, and save it as stock transformers does."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model("qwen3_moe", **SHAPE, output_router_logits=True, dtype="float32")
    model = AutoModelForCausalLM.from_config(config, experts_implementation="eager")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    steps = TRAIN_TOKENS // (BATCH * LENGTH)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    bar = trange(steps, desc="train", unit="step", mininterval=10)
    for _, batch in zip(bar, batches(domains, steps, seed), strict=True):
        output = model(input_ids=batch, labels=batch, use_cache=False)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{output.loss.item():.3f}", balance=f"{output.aux_loss.item():.2f}", refresh=False)
    model.config.output_router_logits = False
    model.save_pretrained(folder)


def load(folder: Path) -> PreTrainedModel:
    """The trained model, its experts computed one by one, which is fastest on a CPU."""
    model = checkpoint.load_model(folder, torch.float32)
    model.set_experts_implementation("eager")
    return model


@torch.inference_mode()
def perplexity(model: PreTrainedModel, sequences: Tensor) -> float:
    """Of every token but each sequence's first."""
    losses = [model(input_ids=batch, labels=batch, use_cache=False).loss for batch in sequences.split(32)]
    return math.exp(torch.stack(losses).mean())


def routing_rows(statistics: Mapping[str, Statistics[Tensor]], seed: int) -> list[dict[str, Any]]:
    """For each two domains, how much of one's routing lies on the other's 16 most used experts of each layer."""
    rows = []
    for name, own in statistics.items():
        for other, theirs in statistics.items():
            shares = []
            for index in range(own.num_layers):
                used = own.experts(index, "routed")
                most = theirs.experts(index, "routed").argsort(descending=True)[: len(used) // 2]
                shares.append(float(used[most].sum() / used.sum()))
            rows.append({"seed": seed, "domain": name, "experts_of": other, "share": round(float(np.mean(shares)), 4)})
    return rows


class Trained:
    """The trained model, profiled on each domain's calibration text, to be cut and measured on its test text."""

    def __init__(self, folder: Path, domains: Mapping[str, Domain]) -> None:
        """Profile it, and score it uncut."""
        self.config, self.domains = checkpoint.load_config(folder), domains
        model, spec, stored = load(folder), spec_for(self.config.model_type), StoredWeights(folder)
        self.statistics = {name: Statistics(profile(model, spec, domain.calibration)) for name, domain in domains.items()}
        parts = folder, self.config, spec, stored
        self.parents = {name: cutting.Parent(*parts, found) for name, found in self.statistics.items()}
        self.whole = {name: perplexity(model, domain.test) for name, domain in domains.items()}

    def rows(self, share: float, seed: int) -> list[dict[str, Any]]:
        """Of the model without ``share`` of its experts, by each of CHOICES and calibration text: perplexity on the calibration
        text's domain, and for contribution on every other one's, too."""
        rows, asked = [], params.read(Path("params.yaml"), Params, "prune_neurons")
        for choice in CHOICES:
            number, criterion = round(share * self.config.num_experts), choice.removesuffix(REFITTED)
            settings = replace(asked, refit="none", experts=number, expert_criterion=criterion, seed=seed)  # type: ignore[arg-type]
            for calibration, parent in self.parents.items():
                cut = cutting.choose(parent, ByThreshold(settings, 0.0))
                child = self._child(parent, cut, self.domains[calibration].calibration if choice.endswith(REFITTED) else None)
                for name in self.domains if choice == "contribution" else [calibration]:
                    found = perplexity(child, self.domains[name].test)
                    row = {"seed": seed, "removed": share, "domain": name, "criterion": choice, "calibration": calibration}
                    rows.append({**row, "perplexity": round(found, 4), "ratio": round(found / self.whole[name], 5)})
        return rows

    def _child(self, parent: cutting.Parent, cut: cutting.Cut, tokens: Tensor | None) -> PreTrainedModel:
        """What the cut leaves, refitted on ``tokens`` where there are any."""
        config, changed = cutting.shrunk_config(parent.config, parent.spec, cut, with_biases=False), cutting.sliced(parent, cut)
        if tokens is not None:
            changed = refit.least_squares(parent.stored, parent.config, config, parent.spec, cut.layers, cut.attention, tokens)
        child = in_memory(config, cutting.named(parent.stored, parent.spec, cut.layers, changed))
        child.set_experts_implementation("eager")
        return child


def summary(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Per choice, its ratio at each share, over domains and seeds (geometric mean)."""

    def mean(share: float, fits: Callable[[Mapping[str, Any]], bool]) -> str:
        found = [float(row["ratio"]) for row in rows if float(row["removed"]) == share and fits(row)]
        return f"{np.exp(np.mean(np.log(found))):.3f}"

    def own(row: Mapping[str, Any]) -> bool:
        return bool(row["domain"] == row["calibration"])

    table = [
        [name, *(mean(share, lambda row, name=name: own(row) and row["criterion"] == name) for share in SHARES)]  # type: ignore[misc]
        for name in CHOICES
    ]
    return [*table, ["contribution, another domain's text", *(mean(share, lambda row: not own(row)) for share in SHARES)]]


def main() -> None:
    """Train, unless it is there, then cut and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with a folder a domain")
    parser.add_argument("--work", type=Path, required=True, help="where the trained model is kept")
    parser.add_argument("--seed", type=int, default=0, help="of everything (default: %(default)s)")
    arguments = parser.parse_args()
    folder = arguments.work / f"seed-{arguments.seed}"
    texts = read_texts(artifacts.existing(arguments.data), arguments.seed)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(texts, folder / "tokenizer.json")
    domains = {name: split(tokenizer, documents, TRAIN_TOKENS // len(texts)) for name, documents in texts.items()}
    if not (folder / "model.safetensors").exists():
        train(domains, folder, arguments.seed)
    trained, place = Trained(folder, domains), ("domain", "criterion", "calibration")
    routing = routing_rows(trained.statistics, arguments.seed)
    merge(RESULTS / "experts_routing.csv", routing, lambda row: (int(row["seed"]), row["domain"], row["experts_of"]))
    for share in SHARES:
        rows = trained.rows(share, arguments.seed)
        merge(RESULTS / "experts.csv", rows, lambda row: (int(row["seed"]), float(row["removed"]), *(row[key] for key in place)))
    header = ["criterion", *(f"{share:.0%}" for share in SHARES)]
    print(markdown(header, summary(artifacts.read_csv(RESULTS / "experts.csv"))))


if __name__ == "__main__":
    exit_cleanly(main)
