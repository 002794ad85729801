"""Rehearse the stages on a two-layer copy of the parent with random weights and some 200 documents of the text; predict the run's
needs: time, memory and disk. What DVC adds isn't rehearsed: it hashes what stages read and write, and copies it to its cache."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, get_type_hints

from tqdm import tqdm

from minigpts import artifacts, params
from minigpts.corpus.settings import Settings
from minigpts.errors import UserError, exit_cleanly
from minigpts.evaluation.params import EvaluateParams
from minigpts.evaluation.speech.params import SpeechParams
from minigpts.exporting.params import ExportParams
from minigpts.importing.source import ModelSource
from minigpts.pruning.params import Params as PruneParams
from minigpts.quantization.params import Precision
from minigpts.rehearsal import running
from minigpts.rehearsal.sample import READ, Sample
from minigpts.training.recipe import Recipe
from stages import (
    check_budget,
    measure_damage,
    prepare_dataset,
    profile_activations,
    prune_embeddings,
    prune_neurons,
    write_general,
)
from stages.tune_parent import Params as TuneParent

if TYPE_CHECKING:
    import torch

    from minigpts.rehearsal.prediction import Prediction, Work

TOP_LEVEL = ((prune_neurons.Quiet, "threshold"), (prune_embeddings.Params, "embedding_threshold"), (TuneParent, "tune_parent"))

BUSY = 1.5  # the load of a core beyond which other work changes what is measured


@dataclass(frozen=True)
class Asked:
    """The sections of params.yaml."""

    model: ModelSource
    dataset: Settings
    profile: profile_activations.Params
    budget: check_budget.Params
    damage: measure_damage.Params
    prune_neurons: PruneParams
    write_general: write_general.Params
    finetune: Recipe
    precision: Precision
    export: ExportParams
    evaluate: EvaluateParams
    speech: SpeechParams
    runtime: params.Runtime

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that is packed, or of a step of tuning."""
        return max(self.profile.sequence_length, self.prune_neurons.sequence_length, self.finetune.tokens_per_step)

    @classmethod
    def read(cls, path: Path) -> Asked:
        """All of the file, the single values at its top included. Raises UserError as :func:`minigpts.params.read`."""
        for single, name in TOP_LEVEL:
            params.read(path, single, None, top_level=(name,))
        return cls(**{section: params.read(path, hint, section) for section, hint in get_type_hints(cls).items()})


def main(argv: Sequence[str] | None = None) -> None:
    """Rehearse the project in the working directory, and print what the run will need."""
    arguments = params.flags(argv, __doc__, {})
    asked = Asked.read(arguments.params)

    from minigpts.budget.space import require_rows
    from minigpts.model import checkpoint
    from minigpts.model.device import device
    from minigpts.model.families import spec_for
    from minigpts.model.weights import num_parameters
    from minigpts.rehearsal import costs, settings, small_parent
    from minigpts.rehearsal.prediction import Prediction, Sizes

    with tempfile.TemporaryDirectory(prefix="minigpts-rehearsal-") as name:
        folder = Path(name)
        copy = folder / "parent" / asked.model.name
        with running.of_stage("fetch_model"):
            parent = small_parent.describe(asked.model)
            small_parent.write(parent, copy)
        shapes, small = (checkpoint.stored_shapes(config) for config in (parent.config, checkpoint.load_config(copy)))
        _require_layers(asked, parent.config.num_hidden_layers)
        if asked.budget.target_megabytes is not None:
            with running.of_stage("check_budget"):
                require_rows(asked.budget.precisions, shapes, spec_for(parent.config.model_type))
        sample = Sample(asked.longest)
        share = num_parameters(small) / num_parameters(shapes)
        values = settings.rehearsed(arguments.params, copy, share, asked.finetune, asked.profile.sequence_length)
        settings.write_yaml(folder / "params.yaml", values)
        shutil.copyfile("dvc.yaml", folder / "dvc.yaml")
        with contextlib.chdir(folder):
            for stage, command in tqdm(list(running.commands(folder)), desc="rehearsing", unit="stage", disable=None):
                if stage == "prepare_dataset":
                    running.run(stage, partial(prepare_dataset.run, command[1:], sample.take), show_errors=True)
                else:
                    running.run(stage, partial(importlib.import_module(command[0]).main, command[1:]))
                if stage == "write_general" and asked.write_general.tokens:
                    _write_in_its_place()
                if stage == "profile_activations":
                    settings.lower_threshold(Path("params.yaml"), Path("data/profile/activation_stats.safetensors"))
            work = _work(asked, sample)
        where = device(asked.runtime)
        took = costs.measure(copy, asked.finetune, asked.runtime, where)
    prediction = Prediction(Sizes.of(parent.config, shapes), work, took, asked.runtime.batch_tokens)
    _print(asked, sample, prediction, where)


def _require_layers(asked: Asked, layers: int) -> None:
    """The one sum that a shallow copy can't check."""
    if asked.prune_neurons.layers >= layers:
        asking = f"prune_neurons.layers is {asked.prune_neurons.layers}"
        raise UserError(f"prune_neurons: params.yaml: {asking}, but the model has {layers} layers")


def _write_in_its_place() -> None:
    """Calibration text as what the parent wrote: random weights write nothing worth keeping."""
    texts = artifacts.read_table(Path("data/prepared/calibration.parquet"), ["text"])["text"]
    with artifacts.table_writer(Path("data/general/written.parquet"), ["text", "loss_spans"]) as append:
        append({"text": texts, "loss_spans": [None] * len(texts)})


def _work(asked: Asked, sample: Sample) -> Work:
    """What the run has to do, by params.yaml, and by the bytes of a token and the length of a question in this rehearsal."""
    from minigpts.rehearsal.prediction import Work

    data, scores = asked.dataset, artifacts.read_json(Path("metrics/base.json"))
    bytes_a_token = scores["test_bytes"] / max(scores["test_tokens"], 1)
    rows = artifacts.read_jsonl(Path("data/prepared/mcq.jsonl"))
    question = fmean(len(" ".join([row["question"], *row["choices"]]).encode()) for row in rows) if rows else 0
    said = artifacts.read_json(Path("data/speech/base.json"))
    whole = sample.corpus_bytes if sample.corpus_bytes is not None else sample.num_bytes

    def tokens(split: str) -> int:
        cap, share = data.max_bytes[split], data.shares[split] * whole
        return round((share if cap is None else cap if sample.corpus_bytes is None else min(share, cap)) / bytes_a_token)

    def questions(split: str) -> int:
        number = min(data.max_questions[split], sample.num_questions or data.max_questions[split])
        return round(number * question / bytes_a_token)

    train = round((1 - sum(data.shares.values())) * whole / bytes_a_token)
    recipe = asked.finetune
    most = recipe.max_tokens if sample.corpus_bytes is None else min(recipe.max_tokens, recipe.max_epochs * train)
    budget, chooses = asked.budget, asked.budget.target_megabytes is not None
    return Work(
        calibration=tokens("calibration"),
        gradients=min(asked.profile.gradient_tokens, tokens("calibration")),
        validation=tokens("validation"),
        test=tokens("test"),
        validation_questions=questions("validation"),
        test_questions=questions("test"),
        replies=sum(map(len, said.values())),
        reply=asked.speech.tokens,
        tuning=replace(recipe, max_tokens=max(most, recipe.tokens_per_step)),
        tunes_parent=params.read(Path("params.yaml"), TuneParent, None, top_level=("tune_parent",)).tune_parent,
        refits=asked.prune_neurons.refit == "least_squares",
        budget=budget.is_set,
        damage=min(asked.damage.tokens, tokens("calibration")),
        trial=budget.trial_tokens,
        formats=len(budget.precisions) if chooses else 0,
        export=min(asked.export.tokens, tokens("calibration")) if asked.export.formats else 0,
        scales=asked.export.scale_tokens,
        written=asked.write_general.tokens,
        kept=1 - (budget.target_size_reduction or 0),
    )


def _print(asked: Asked, sample: Sample, prediction: Prediction, where: torch.device) -> None:
    import torch

    from minigpts.rehearsal.prediction import gigabytes, text

    if sample.regrouped is not None:
        print(f"the first {READ:,} documents are of {sample.regrouped} groups alone, so they were rehearsed without groups")
    parent, needs = prediction.parent, prediction.stages()
    sizes = f"{parent.parameters / 1e6:,.1f} M parameters in {parent.layers} layers"
    print(f"every stage took a copy of {asked.model.name} ({sizes}) and {sample.num_documents:,} documents of {asked.dataset.name}")
    print("about what the run needs on this machine, where a stage computes:\n")
    print(text(needs), end="\n\n")
    if sample.corpus_bytes is None:
        print("how much text there is can't be known before it is read: taken for as much as the maximum sizes allow")
    outs, states = prediction.disk()
    print(f"disk: {gigabytes(outs)} for what the stages write and DVC's copy of it, {gigabytes(states)} more during tuning")
    load, cores, free = os.getloadavg()[0], os.cpu_count() or 1, shutil.disk_usage(Path.cwd()).free
    memory = torch.cuda.mem_get_info()[1] if where.type == "cuda" else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    warnings = [
        f"{name} needs about {gigabytes(need.memory)} of memory, here are {gigabytes(memory)}"
        for name, need in needs.items()
        if need.memory > memory
    ]
    if outs + states > free:
        warnings.append(f"{gigabytes(free)} of disk are free here")
    if load > BUSY * cores:
        warnings.append(f"other work runs here (load {load:.0f} on {cores} cores), and the times are as if it went on")
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


if __name__ == "__main__":
    exit_cleanly(main)
