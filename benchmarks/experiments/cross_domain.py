"""One domain's child, or cut, on another domain's text."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.bakeoff import criteria
from minigpts import artifacts, params
from minigpts.errors import UserError
from minigpts.evaluation import language_modeling
from minigpts.evaluation.metrics import accuracy_metrics
from minigpts.model import checkpoint, device
from stages.evaluate import Params as Evaluating

SEED = 0  # of the documents drawn to calibrate and to test on


@dataclass(frozen=True)
class Run:
    """A domain's finished experiment, its files at hand."""

    name: str
    folder: Path  # child/, params.yaml, calibration.parquet, test.parquet, mcq.jsonl, activation_stats, token_counts
    metrics: Mapping[str, Mapping[str, Any]]  # by file stem

    def texts(self, split: str) -> list[str]:
        """Of ``calibration`` or ``test``."""
        return artifacts.read_table(self.folder / f"{split}.parquet", ["text"])["text"]

    def kept_neurons(self) -> NDArray[np.bool_]:
        """Which of the parent's MLP neurons stay, all layers one after the other."""
        return np.array(artifacts.read_table(self.folder / "child/pruned_neurons.parquet", ["kept"])["kept"], dtype=bool)

    def kept_tokens(self) -> NDArray[np.bool_]:
        """Which of the parent's tokens stay, by id."""
        return np.array(artifacts.read_table(self.folder / "child/pruned_tokens.parquet", ["new_id"])["new_id"]) >= 0


def jaccard(kept: Sequence[NDArray[np.bool_]]) -> NDArray[np.float64]:
    """Of each two: how many both keep over how many either keeps, (sets, sets)."""
    return np.array([[(one & other).sum() / (one | other).sum() for other in kept] for one in kept])


def matrix(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Rows of cross_domain.csv: each run's child on each run's test text and questions, beside the parent on the same."""
    rows = []
    with tqdm(total=len(runs) * (len(runs) - 1), desc="children on other domains", unit="pair") as bar:
        for run in runs:
            for other in runs:
                if run is other:
                    found = run.metrics["finetuned"]
                else:
                    bar.set_postfix_str(f"{run.name} on {other.name}")
                    found = evaluated(run, other)
                    bar.update()
                parent = other.metrics["base"]
                rows.append(
                    {
                        "domain": run.name,
                        "evaluated_on": other.name,
                        "bits_per_byte": found["bits_per_byte"],
                        "bits_per_byte_parent": parent["bits_per_byte"],
                        "acc": found.get("acc"),
                        "acc_parent": parent.get("acc"),
                    }
                )
    return rows


def evaluated(run: Run, other: Run) -> dict[str, float]:
    """``bits_per_byte`` of ``run``'s child on ``other``'s test text, and its accuracy where there are test questions.

    By the limits of ``other``'s params, as its own models were measured. Raises UserError where nothing finite comes out.
    """
    settings = params.read(other.folder / "params.yaml", Evaluating, "evaluate")
    machine = params.read(other.folder / "params.yaml", params.Runtime, "runtime")
    model = checkpoint.load_model(run.folder / "child", torch.float32).to(device.device(machine))
    tokenizer = checkpoint.load_fast_tokenizer(run.folder / "child")
    length, batch_tokens = settings.sequence_length, machine.batch_tokens
    scored = language_modeling.score(model, tokenizer, other.texts("test"), sequence_length=length, batch_tokens=batch_tokens)
    if not np.isfinite(scored.nats):
        raise UserError(f"the child for {run.name} predicts no finite probabilities on {other.name}'s test text")
    questions = [question for question in artifacts.read_jsonl(other.folder / "mcq.jsonl") if question["split"] == "test"]
    template = settings.template(run.folder / "child")
    answered = accuracy_metrics(model, tokenizer, questions, batch_tokens=batch_tokens, template=template) if questions else {}
    return {"bits_per_byte": scored.bits_per_byte, **answered}


def calibration(runs: Sequence[Run], base: Path, share: float, calibration_tokens: int, test_tokens: int) -> list[dict[str, Any]]:
    """Rows of calibration_domains.csv: perplexity, per token of the parent, of each domain's test text, untuned.

    The parent ``base`` loses the same share of MLP neurons in every layer and nothing else, chosen by the params' criterion on
    as many tokens of one domain's calibration text, with the refit on the same text and without it.
    """
    dense: dict[str, float] = {}
    found: list[dict[str, Any]] = []
    for run in tqdm(runs, desc="calibrating", unit="domain"):
        bench = _bench(run, base, calibration_tokens, test_tokens)
        for domain, perplexity in _scored(bench, "dense", "none", 0.0, [run], test_tokens):
            dense[domain] = perplexity
        for refit in criteria.REFITS:
            scores = _scored(bench, bench.settings.pruning.criterion, refit, share, runs, test_tokens)
            found += [
                {"domain": domain, "calibrated_on": run.name, "refit": refit, "neurons_removed": share, "perplexity": perplexity}
                for domain, perplexity in scores
            ]
    return [{**line, "perplexity_parent": dense[line["domain"]]} for line in found]


def _bench(run: Run, base: Path, calibration_tokens: int, test_tokens: int) -> criteria.BakeOff:
    calibration, test = run.folder / "calibration.parquet", run.folder / "test.parquet"
    arguments = argparse.Namespace(
        model=base,
        calibration=calibration,
        train=calibration,  # nothing is tuned
        test=test,
        calibration_tokens=calibration_tokens,
        test_tokens=test_tokens,
    )
    return criteria.BakeOff(arguments, criteria.Settings.read(run.folder / "params.yaml"))


def _scored(
    bench: criteria.BakeOff, criterion: str, refit: str, share: float, runs: Sequence[Run], test_tokens: int
) -> Iterator[tuple[str, float]]:
    model = bench.child(criteria.Row(criterion, refit, "uniform", share, SEED, 0))
    for run in runs:
        bench.test = criteria.drawn(bench.tokenizer, run.texts("test"), SEED, test_tokens)
        yield run.name, bench.perplexity(model)


def own_against_other(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line a domain and refit: perplexity after calibration on the own text, and how much more the others' give."""
    by_place: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for line in rows:
        by_place[line["domain"], line["refit"]][line["calibrated_on"]] = line["perplexity"]
    lines = []
    for (domain, refit), values in by_place.items():
        own = values[domain]
        others = sorted(value / own for name, value in values.items() if name != domain)
        margin = f"; calibrated on another domain × {others[0]:.3g} to × {others[-1]:.3g}" if others else ""
        lines.append(f"{domain}, refit {refit}: perplexity {own:.4g} on the own calibration text{margin}")
    return lines
