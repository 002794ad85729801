"""The bake-off: which MLP neurons should go, and what is a refit worth? Rerun it on your own domain.

python -m benchmarks.bakeoff.criteria [--model …] [--calibration …] [--test …] [--train …]   (defaults: what `make repro` left)

Every criterion, with and without the refit, removes the same share of the MLP neurons of the same parent, knowing the same
calibration text, and is scored on the same test text: perplexity, untuned, and with ``--tuned-tokens`` after the same tuning,
too. ``--peers`` adds what other libraries make of it. Widths are the same in every layer, except with ``paper``: its one raw ε
for all layers, chosen so that as many neurons go. A seed picks the calibration documents (and criterion random's neurons, and
the training documents). Every finished row is kept at once, so a run may be cut into pieces: rows that are there are not made
again. Beside the CSV lies, as .json, what its rows are of; rows of anything else need another ``--out``.
"""

from __future__ import annotations

import argparse
import csv
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, PrinterCallback

from benchmarks.bakeoff import origin, peers, results
from minigpts import artifacts, params
from minigpts.budget.damage import in_memory
from minigpts.errors import UserError, exit_cleanly
from minigpts.evaluation import language_modeling
from minigpts.model import checkpoint, packing
from minigpts.model.device import device
from minigpts.model.families import spec_for
from minigpts.model.weights import StoredWeights
from minigpts.params import Runtime
from minigpts.profiling.gradients import taylor_sums
from minigpts.profiling.recorder import profile
from minigpts.profiling.statistics import GRADIENT_COUNT, Statistics
from minigpts.pruning import cutting
from minigpts.pruning.allocation import below_threshold, threshold_for_budget
from minigpts.pruning.params import ByPlan
from minigpts.pruning.params import Params as Pruning
from minigpts.training.data import PackedSequences, collate, draw_sequences
from minigpts.training.recipe import Recipe
from minigpts.training.trainer import FusedTrainer, set_trainable, training_arguments
from stages.evaluate import Params as Evaluating

CRITERIA = ("random", "magnitude", "paper", "l1", "wanda", "flap", "taylor")
REFITS = ("none", "least_squares")
PREPARED = Path("data/prepared")
LEARNING_RATE = 2e-4  # SmolLM2's, by full runs, and that of the rows kept so far (docs/experiments/recovery.md)


@dataclass(frozen=True)
class Row:
    """What one line of the results is about: all of its columns but the perplexity."""

    criterion: str
    refit: str
    allocation: str
    ratio: float  # of the MLP neurons, that go
    seed: int
    tuned_tokens: int  # the budget of its tuning; 0: untuned

    @classmethod
    def of(cls, line: Mapping[str, str]) -> Row:
        """From a line of the CSV."""
        return cls(
            line["criterion"], line["refit"], line["allocation"], float(line["ratio"]), int(line["seed"]), int(line["tuned_tokens"])
        )


@dataclass(frozen=True)
class Settings:
    """What of params.yaml the bake-off goes by, so that it cuts, refits, tunes and scores as the pipeline does."""

    pruning: Pruning
    evaluating: Evaluating
    recipe: Recipe
    runtime: Runtime

    @classmethod
    def read(cls, path: Path) -> Settings:
        """From the file; where the recipe would find its rate, every row is tuned at the same one."""
        recipe = params.read(path, Recipe, "finetune")
        return cls(
            params.read(path, Pruning, "prune_neurons"),
            params.read(path, Evaluating, "evaluate"),
            replace(recipe, learning_rate=recipe.learning_rate or LEARNING_RATE),
            params.read(path, Runtime, "runtime"),
        )


class BakeOff:
    """The parent, the texts, and what is known of the parent on the calibration text of one seed at a time."""

    def __init__(self, arguments: argparse.Namespace, settings: Settings) -> None:
        """Read the texts and choose what is tested on."""
        self.folder, self.settings, self.device = arguments.model, settings, device(settings.runtime)
        self.config, self.stored = checkpoint.load_config(self.folder), StoredWeights(self.folder)
        self.spec = spec_for(self.config.model_type)
        self.tokenizer = checkpoint.load_fast_tokenizer(self.folder)
        packing.require_positions(self.config, settings.pruning.sequence_length, "prune_neurons.sequence_length")
        self.calibration, self.train, test = (
            artifacts.read_table(path, ["text"])["text"] for path in (arguments.calibration, arguments.train, arguments.test)
        )
        self.calibration_tokens = arguments.calibration_tokens
        self.test = drawn(self.tokenizer, test, 0, arguments.test_tokens)
        self.seed: int | None = None
        self.sums: dict[str, Tensor] = {}

    def dense(self) -> PreTrainedModel:
        """The parent itself, anew: whoever gets it may change it."""
        return checkpoint.load_model(self.folder, torch.float32).to(self.device)

    def calibrate(self, seed: int, gradients: bool) -> None:
        """Profile the parent on the seed's calibration text, unless that was the last thing done."""
        if seed != self.seed:
            self.seed, self.sums = seed, {}
            self.texts = drawn(self.tokenizer, self.calibration, seed, self.calibration_tokens)
        missing_gradients = gradients and GRADIENT_COUNT not in self.sums
        if self.sums and not missing_gradients:
            return
        model, tokens = self.dense(), self.calibration_sequences()
        if not self.sums:
            self.sums |= profile(model, self.spec, tokens)
        if missing_gradients:
            self.sums |= taylor_sums(model, self.spec, tokens)

    def calibration_sequences(self) -> Tensor:
        """The seed's calibration text as the refit packs it, (sequences, sequence_length)."""
        packed = packing.pack_texts(self.tokenizer, self.config, self.texts, self.settings.pruning.sequence_length)
        return torch.from_numpy(packed).to(self.device)

    def child(self, row: Row) -> PreTrainedModel:
        """What the row's criterion, or peer, makes of the parent."""
        if row.criterion == "dense":
            return self.dense()
        if row.criterion in peers.PEERS:
            self.calibrate(row.seed, gradients=False)
            return peers.PEERS[row.criterion](self.dense(), self.spec, self.calibration_sequences(), row.ratio)
        self.calibrate(row.seed, gradients=row.criterion == "taylor")
        statistics = Statistics(self.sums)
        parent = cutting.Parent(self.folder, self.config, self.spec, self.stored, statistics)
        criterion: Any = "l1" if row.criterion == "paper" else row.criterion
        refit: Any = row.refit
        settings = replace(self.settings.pruning, criterion=criterion, seed=row.seed, refit=refit, linear_threshold=None)
        plan = ByPlan(settings, kept_widths(statistics, row.ratio, "per_layer" if row.allocation == "per_layer" else "uniform"))
        config, tensors = cutting.child(parent, cutting.choose(parent, plan), self.texts, self.device)
        return in_memory(config, tensors).to(self.device)

    def perplexity(self, model: PreTrainedModel) -> float:
        """Of the test text, per token of the parent's tokenizer, which is the child's, too."""
        length, batch_tokens = self.settings.evaluating.sequence_length, self.settings.runtime.batch_tokens
        model.eval()
        result = language_modeling.score(model, self.tokenizer, self.test, sequence_length=length, batch_tokens=batch_tokens)
        mean = result.nats / result.tokens
        return math.exp(mean) if mean < 700 else math.inf

    def tune(self, model: PreTrainedModel, max_tokens: int, seed: int) -> None:
        """Tune the model in place by the recipe's rates and sizes; the last weights count. No teacher, adapter, or other text."""
        recipe = replace(self.settings.recipe, max_tokens=max_tokens, seed=seed, general=None, general_share=0.0, lora_rank=0)
        set_trainable(model, recipe)
        sequences, _ = draw_sequences(self.tokenizer, self.train, packing.boundaries(self.tokenizer, self.config), recipe)
        steps = recipe.steps(len(sequences) * recipe.sequence_length)
        data = PackedSequences(sequences, steps * recipe.batch_size, recipe.seed)
        with tempfile.TemporaryDirectory() as scratch:
            settings = training_arguments(recipe, self.settings.runtime, steps, Path(scratch))
            trainer = FusedTrainer(model, settings, data_collator=collate, train_dataset=data)
            trainer.remove_callback(PrinterCallback)
            trainer.train()

    def origin(self, tuned: bool) -> dict[str, str]:
        """What these rows are of, a digest by what it is of; ``tuned``: and what they are tuned on, and how."""
        found = {
            "model": origin.of_files(sorted(self.folder.glob("*.safetensors"))),
            "calibration text": origin.of([self.calibration, self.calibration_tokens, self.settings.pruning.sequence_length]),
            "test text": origin.of([self.test, self.settings.evaluating.sequence_length]),
        }
        if tuned:
            found["training text"] = origin.of(self.train)
            found["recipe"] = origin.of({**asdict(self.settings.recipe), "max_tokens": None, "seed": None})  # which each row says
        return found


def drawn(tokenizer: Any, texts: Sequence[str], seed: int, max_tokens: int) -> list[str]:
    """Documents in seeded order until they hold ``max_tokens``; all of them where they hold less."""
    chosen: list[str] = []
    order = np.random.default_rng(seed).permutation(len(texts))
    shuffled, total = [texts[index] for index in order], 0
    for text, ids in zip(shuffled, packing.encode_lazily(tokenizer, shuffled), strict=True):
        chosen.append(text)
        total += len(ids) + 1
        if total >= max_tokens:
            break
    return chosen


def kept_widths(statistics: Statistics[Tensor], ratio: float, allocation: Literal["uniform", "per_layer"]) -> list[int]:
    """How many MLP neurons each layer keeps when at least ``ratio`` of all go.

    ``per_layer`` is the paper's: the ε at or below which that many lie, the same for all layers. A layer that it would empty
    keeps one neuron.
    """
    mean_abs = statistics.mean_abs_by_layer()
    sizes = [len(layer) for layer in mean_abs]
    if allocation == "uniform":
        return [max(1, math.floor(size * (1 - ratio) + 1e-9)) for size in sizes]
    threshold = threshold_for_budget(mean_abs, math.ceil(sum(sizes) * ratio - 1e-9))
    return [max(1, size - gone) for size, gone in zip(sizes, below_threshold(mean_abs, threshold), strict=True)]


def rows_of(arguments: argparse.Namespace) -> Iterator[Row]:
    """Every untuned row that is asked for, a seed after the other."""
    for seed in arguments.seeds:
        yield Row("dense", "none", "none", 0.0, seed, 0)
        for ratio in arguments.ratios:
            for criterion in arguments.criteria:
                allocation = "per_layer" if criterion == "paper" else "uniform"
                yield from (Row(criterion, refit, allocation, ratio, seed, 0) for refit in arguments.refit)
            yield from (Row(peer, "none", "uniform", ratio, seed, 0) for peer in peers.PEERS if arguments.peers)


def run(bakeoff: BakeOff, arguments: argparse.Namespace) -> None:
    """Make the rows that are missing, and keep each as soon as it is there."""
    budgets = [0, *([arguments.tuned_tokens] if arguments.tuned_tokens else [])]
    there = set() if arguments.again else {Row.of(line) for line in read(arguments.out)}
    wanted = [[replace(row, tuned_tokens=budget) for budget in budgets] for row in rows_of(arguments)]
    todo = [missing for rows in wanted if (missing := [row for row in rows if row not in there])]
    with tqdm(total=sum(map(len, todo)), desc="bake-off", unit="row") as bar:
        for rows in todo:
            model = bakeoff.child(rows[0])
            for row in rows:
                bar.set_postfix_str(f"{row.criterion}, refit {row.refit}, {row.ratio:.0%}, seed {row.seed}")
                if row.tuned_tokens:
                    bakeoff.tune(model, row.tuned_tokens, row.seed)
                append(arguments.out, row, bakeoff.perplexity(model))
                bar.update()


def read(path: Path) -> list[dict[str, str]]:
    """The lines that are there."""
    return artifacts.read_csv(path) if path.exists() else []


def append(path: Path, row: Row, perplexity: float) -> None:
    """Add a line, below the header if it is the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow([*(field.name for field in fields(Row)), "perplexity"])
        writer.writerow([*(getattr(row, field.name) for field in fields(Row)), f"{perplexity:.6g}"])


def settle(path: Path) -> None:
    """Sort the file; of lines about the same, the last counts."""
    lines = {Row.of(line): line for line in read(path)}
    order = ["dense", *CRITERIA, *peers.PEERS]

    def place(row: Row) -> tuple[Any, ...]:
        return row.tuned_tokens, row.ratio, order.index(row.criterion), REFITS.index(row.refit), row.seed

    artifacts.write_csv(path, [lines[row] for row in sorted(lines, key=place)])


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing; sort, draw and sum up all that is there."""
    arguments = _parser().parse_args(argv)
    for ratio in arguments.ratios:
        if not 0 < ratio < 1:
            raise UserError(f"--ratios must be > 0 and < 1, got {ratio}")
    if arguments.peers:
        peers.require()
    settings = Settings.read(arguments.params)
    bakeoff = BakeOff(arguments, settings)
    origin.require_same(arguments.out, bakeoff.origin(arguments.tuned_tokens > 0))
    run(bakeoff, arguments)
    settle(arguments.out)
    lines = read(arguments.out)
    print(results.table(lines, settings.pruning.criterion))
    with artifacts.replacing(arguments.out.with_suffix(".png")) as temporary:
        temporary.write_bytes(results.picture(lines).png())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("data/checkpoints/base"), help="the parent (default: %(default)s)")
    for name in ("calibration", "test", "train"):
        path = PREPARED / f"{name}.parquet"
        parser.add_argument(f"--{name}", type=Path, default=path, help=f"parquet of {name} text (default: %(default)s)")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.2, 0.4, 0.6], help="of the MLP neurons, that go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--criteria", nargs="+", choices=CRITERIA, default=CRITERIA)
    parser.add_argument("--refit", nargs="+", choices=REFITS, default=REFITS)
    parser.add_argument("--peers", action="store_true", help="torch-pruning and optipfair, too: pip install -e '.[peers]'")
    parser.add_argument("--tuned-tokens", type=int, default=0, help="tune every child on this many tokens, too")
    parser.add_argument("--calibration-tokens", type=int, default=16384, help="default: %(default)s")
    parser.add_argument("--test-tokens", type=int, default=8192, help="default: %(default)s")
    parser.add_argument("--again", action="store_true", help="make rows that are there again")
    parser.add_argument("--out", type=Path, default=Path("data/criteria.csv"), help="and .json, .png (default: %(default)s)")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: %(default)s")
    return parser


if __name__ == "__main__":
    exit_cleanly(main)
