"""Quality against the megabytes of the file: ours beside what else a user has at that size, all scored alike.

python -m benchmarks.experiments.bits --package FOLDER [--exported NAME=FOLDER[,CHECKPOINT] …] [--vocabulary-alone FOLDER]
    [--prepared data/prepared] [--data NAME]

Rows: the tuned parent in bf16 and in llama.cpp's mixtures with the domain's importance matrix; the vocabulary trimmed and nothing
else, in bf16 and in llama.cpp's types; the pruned child in bf16; and every exported file that is named. Each row is a GGUF file,
read back and scored on the test text and questions in fp32. ``--package`` is where llama.cpp's quantizer is installed:

    npm install --prefix FOLDER @node-llama-cpp/linux-x64@3.22.1

A row is written as soon as it is measured, and one that is there stays: delete its line to measure it again. Decoding speed is
llama.cpp's own on ``--threads`` threads.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.device import DEVICE
from benchmarks.experiments.bits_figure import picture
from benchmarks.llamacpp.files import Quantizer, load
from benchmarks.llamacpp.run import LlamaCpp
from benchmarks.table import Line, merge
from minigpts import artifacts
from minigpts.errors import UserError, exit_cleanly
from minigpts.evaluation import language_modeling, multiple_choice
from minigpts.evaluation.speech import prompts
from minigpts.evaluation.speech.replies import figures, replies
from minigpts.model import checkpoint, packing

SEQUENCE_LENGTH, BATCH_TOKENS, NEW_TOKENS = 1024, 4096, 128  # as params.yaml has them
REFERENCE = "tuned parent, BF16"
MIXTURES = ("BF16", "Q8_0", "Q5_K_M", "Q4_K_M", "Q3_K_M", "IQ4_XS", "Q2_K")
VOCABULARY_TYPES = ("BF16", "Q5_0", "IQ4_NL")


@dataclass(frozen=True)
class Candidate:
    """A row to be."""

    name: str
    folder: Path  # the checkpoint that the file is made from
    file: Callable[[], Path]  # makes the GGUF file, or finds it
    made: bool = True  # for this row: it is removed when it has been measured


@dataclass(frozen=True)
class Domain:
    """What every row is measured on."""

    test: Sequence[str]
    validation: Sequence[str]  # which the prompts of the loop rate come from
    questions: Sequence[Mapping[str, Any]]
    num_tokens: int  # of the test text, by the parent's tokenizer

    @classmethod
    def read(cls, prepared: Path, parent: Path) -> Domain:
        """The test split of a prepared domain. Raises UserError where there is none."""
        test, validation = texts(prepared, "test"), texts(prepared, "validation")
        questions = [line for line in artifacts.read_jsonl(prepared / "mcq.jsonl") if line["split"] == "test"]
        tokens = packing.encode(checkpoint.load_fast_tokenizer(parent), test)
        return cls(test, validation, questions, sum(map(len, tokens)))

    def measured(self, file: Path, folder: Path, num_threads: int) -> dict[str, Any]:
        """The figures of a GGUF file that was made from checkpoint ``folder``; no accuracy where there are no questions."""
        model, tokenizer = load(file, folder).to(DEVICE), checkpoint.load_tokenizer(folder)
        fast = checkpoint.load_fast_tokenizer(folder)
        limits: dict[str, Any] = {"sequence_length": SEQUENCE_LENGTH, "batch_tokens": BATCH_TOKENS}
        text = language_modeling.score(model, fast, self.test, **limits, progress="test text")
        scores = multiple_choice.score(model, fast, self.questions, batch_tokens=BATCH_TOKENS, progress="questions")
        accuracy = multiple_choice.accuracy(self.questions, scores)
        asked = prompts.of_documents(self.validation)
        said = replies(model, tokenizer, asked, NEW_TOKENS, batch_tokens=BATCH_TOKENS, progress="replies")
        del model
        with LlamaCpp(file, num_threads) as running:
            speed = running.speeds()[1]
        return {
            "megabytes": file.stat().st_size / 1e6,
            "bits_per_byte": text.bits_per_byte,
            "perplexity": math.exp(text.nats / self.num_tokens),
            **{name: accuracy.get(name, "") for name in ("acc", "acc_norm")},
            "loop_rate": figures(said)["loop_rate"],
            "tokens_per_second": speed,
        }


def texts(prepared: Path, split: str) -> list[str]:
    """The documents of a split."""
    return artifacts.read_table(prepared / f"{split}.parquet", ["text"])["text"]


def candidates(arguments: argparse.Namespace, scratch: Path) -> list[Candidate]:
    """All rows, the tuned parent in bf16 first: the others are compared with it. Raises UserError for what any of them lacks."""
    calibration = texts(arguments.prepared, "calibration")
    groups = (
        ("tuned parent", arguments.tuned_parent, MIXTURES),
        ("vocabulary alone", arguments.vocabulary_alone, VOCABULARY_TYPES),
        ("pruned", arguments.pruned, ("BF16",)),
    )
    found = []
    for called, folder, types in groups:
        if folder is not None:
            own = scratch / called.replace(" ", "_")
            own.mkdir()
            quantizer = Quantizer(folder, own, arguments.package, calibration, arguments.tokens)
            quantizer.check(types)
            found += [Candidate(f"{called}, {name}", folder, partial(quantizer.file, name)) for name in types]
    for given in arguments.exported:
        called, _, folders = given.partition("=")
        export, _, made_from = folders.partition(",")
        file, folder = exported_file(Path(export)), Path(made_from) if made_from else arguments.pruned
        found.append(Candidate(f"ours, {called}", folder, partial(Path, file), made=False))
    return found


def exported_file(folder: Path) -> Path:
    """The one GGUF file of an exported folder. Raises UserError for none, or several."""
    found = sorted(folder.glob("*.gguf"))
    if len(found) != 1:
        raise UserError(f"{folder}: {len(found)} GGUF files, expected one; name the folder that the stage export wrote")
    return found[0]


def key(line: Line) -> tuple[str, str]:
    """What a row is of."""
    return line["data"], line["name"]


def rows_of(path: Path, data: str) -> dict[str, dict[str, str]]:
    """The rows that are there of some data, by name."""
    lines = artifacts.read_csv(path) if path.exists() else []
    return {line["name"]: line for line in lines if line["data"] == data}


def measure(candidate: Candidate, domain: Domain, arguments: argparse.Namespace) -> None:
    """Add a candidate's row to the CSV."""
    file = candidate.file()
    found = domain.measured(file, candidate.folder, arguments.threads)
    if candidate.made:
        file.unlink()
    known = rows_of(arguments.out, arguments.data)
    reference = found["perplexity"] if candidate.name == REFERENCE else float(known[REFERENCE]["perplexity"])
    row = {"data": arguments.data, "name": candidate.name}
    for name, value in found.items():
        row[name] = value
        if name == "perplexity":
            row["perplexity_over_tuned_parent"] = value / reference
    merge(arguments.out, [row], key)
    print(row, file=sys.stderr)


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags. Raises UserError for an exported file that isn't named as it should be."""
    checkpoints = Path("data/checkpoints")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parent", type=Path, default=checkpoints / "base", help="whose tokens perplexity is per (%(default)s)")
    parser.add_argument("--tuned-parent", type=Path, default=checkpoints / "tuned_parent", help="(default: %(default)s)")
    parser.add_argument("--vocabulary-alone", type=Path, help="a checkpoint of which the vocabulary alone was trimmed, tuned")
    parser.add_argument("--pruned", type=Path, default=checkpoints / "finetuned", help="the tuned child (default: %(default)s)")
    parser.add_argument(
        "--exported",
        action="append",
        default=[],
        metavar="NAME=FOLDER[,CHECKPOINT]",
        help="a folder with one GGUF file, and the checkpoint it was made from where that isn't --pruned; repeatable",
    )
    parser.add_argument("--prepared", type=Path, default=Path("data/prepared"), help="(default: %(default)s)")
    parser.add_argument("--data", default="medical", help="what the rows are called (default: %(default)s)")
    parser.add_argument("--package", type=Path, required=True, help="where llama.cpp's quantizer is installed")
    parser.add_argument("--tokens", type=int, default=12_288, help="of calibration text (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of llama.cpp (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/bits.csv"), help="(default: %(default)s)")
    arguments = parser.parse_args(argv)
    unnamed = [given for given in arguments.exported if not all(given.partition("="))]
    if unnamed:
        raise UserError(f"--exported takes NAME=FOLDER, got {unnamed[0]!r}")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the rows that aren't there yet, and draw."""
    arguments = parsed(argv)
    domain = Domain.read(arguments.prepared, arguments.parent)
    with tempfile.TemporaryDirectory() as scratch:
        for candidate in candidates(arguments, Path(scratch)):
            if candidate.name not in rows_of(arguments.out, arguments.data):
                measure(candidate, domain, arguments)
    drawn = arguments.out.with_name(f"{arguments.out.stem}_{arguments.data}.png")
    with artifacts.replacing(drawn) as temporary:
        temporary.write_bytes(picture(list(rows_of(arguments.out, arguments.data).values()), arguments.data).png())


if __name__ == "__main__":
    exit_cleanly(main)
