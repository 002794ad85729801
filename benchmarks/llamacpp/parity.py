"""The same text in llama.cpp and in transformers: tokens, log-probabilities, greedy text; and what each file costs to run.

python -m benchmarks.llamacpp.parity --package FOLDER [--parent FOLDER] [--child NAME=FILE.gguf,CHECKPOINT …] [--prepared FOLDER]

Files: the parent in bf16, Q8_0 and Q4_K_M, and the child's own. Transformers has the file's weights in fp32. llama.cpp also rounds
the inputs of a layer, to blocks of 8 bits where the weights are in blocks, and to bf16 where they are that. So each file is
compared twice: as it is, and its very values in F32, where nothing but the reading and the arithmetic can differ. Lines are the
test text's; greedy continuations begin with the first words of documents. Speeds are llama.cpp's on ``--threads`` threads, all in
one run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.llamacpp.files import Quantizer, load, values, write_plain
from benchmarks.llamacpp.run import LlamaCpp
from minigpts import artifacts
from minigpts.errors import UserError, exit_cleanly
from minigpts.evaluation.speech.generation import generate
from minigpts.model import checkpoint, packing

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TYPES = ("BF16", "Q8_0", "Q4_K_M")
LINES, PROMPTS, NEW_TOKENS, BATCH_TOKENS = 1000, 50, 32, 4096
FIRST_WORDS = 5  # of a document, that a continuation begins with
SCORED = 512  # tokens of a document at most, whose log-probabilities are compared


def alike(running: LlamaCpp, folder: Path, lines: Sequence[str]) -> int:
    """How many lines get the very tokens that the checkpoint's tokenizer gives them."""
    tokenizer = checkpoint.load_fast_tokenizer(folder)
    return sum(running.tokenize(line) == tokenizer.encode(line, add_special_tokens=False).ids for line in lines)


@torch.inference_mode()
def differences(running: LlamaCpp, model: PreTrainedModel, texts: Sequence[Sequence[int]]) -> np.ndarray:
    """llama.cpp's ln p minus transformers' of every token after a text's first; float64, of all texts in a row."""
    found = []
    for ids in texts:
        rows = model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
        found.append(running.log_probabilities(ids) - rows[range(len(ids) - 1), ids[1:]].numpy())
    return np.concatenate(found)


def highest_in_f32(file: Path, folder: Path, model: PreTrainedModel, texts: Sequence[Sequence[int]]) -> float:
    """The highest |difference| of ln p when llama.cpp has the file's values in F32."""
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "values.gguf"
        write_plain(folder, plain, "F32", values(file, folder))
        with LlamaCpp(plain) as running:
            return float(np.abs(differences(running, model, texts)).max())


def measured(name: str, file: Path, folder: Path, documents: Sequence[str], num_threads: int) -> dict[str, Any]:
    """The row of one file that was made from checkpoint ``folder``."""
    model, tokenizer = load(file, folder), checkpoint.load_fast_tokenizer(folder)
    lines = [line for document in documents for line in document.splitlines() if line][:LINES]
    bos = packing.boundaries(tokenizer, model.config).bos
    texts = [[bos, *ids.tolist()][:SCORED] for ids in packing.encode(tokenizer, documents[:PROMPTS])]
    prompts = [packing.prompt_ids(tokenizer, " ".join(document.split()[:FIRST_WORDS])) for document in documents[:PROMPTS]]
    model.generation_config.eos_token_id = None  # all the tokens, whatever ends a text: the two differ in what does
    written = generate(model, prompts, NEW_TOKENS, batch_tokens=BATCH_TOKENS, progress="replies")
    with LlamaCpp(file, num_threads) as running:
        apart = differences(running, model, texts)
        prefill, decode = running.speeds()
        return {
            "name": name,
            "megabytes": file.stat().st_size / 1e6,
            "lines": len(lines),
            "lines_tokenized_alike": alike(running, folder, lines),
            "continuations": len(prompts),
            "continuations_alike": sum(
                running.greedy(ids, NEW_TOKENS) == reply for ids, reply in zip(prompts, written, strict=True)
            ),
            "log_probabilities": len(apart),
            "log_probability_shift": float(apart.mean()),
            "log_probability_mean_difference": float(np.abs(apart).mean()),
            "log_probability_max_difference": float(np.abs(apart).max()),
            "log_probability_max_difference_in_f32": highest_in_f32(file, folder, model, texts),
            "load_seconds": running.load_seconds,
            "prefill_tokens_per_second": prefill,
            "decode_tokens_per_second": decode,
        }


def files(arguments: argparse.Namespace, scratch: Path) -> Iterator[tuple[str, Path, Path]]:
    """Name, GGUF file and checkpoint of every row. Raises UserError for a child that isn't named as it should be."""
    children = []
    for given in arguments.child:
        name, _, paths = given.partition("=")
        file, _, folder = paths.partition(",")
        if not (name and file and folder):
            raise UserError(f"--child takes NAME=FILE.gguf,CHECKPOINT, got {given!r}")
        children.append((name, artifacts.existing(Path(file)), Path(folder)))
    calibration = artifacts.read_table(arguments.prepared / "calibration.parquet", ["text"])["text"]
    quantizer = Quantizer(arguments.parent, scratch, arguments.package, calibration, arguments.tokens)
    quantizer.check(TYPES)
    yield from ((f"parent, {name}", quantizer.file(name), arguments.parent) for name in TYPES)
    yield from children


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every file and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parent", type=Path, default=Path("data/checkpoints/base"), help="(default: %(default)s)")
    parser.add_argument("--child", action="append", default=[], metavar="NAME=FILE.gguf,CHECKPOINT", help="repeatable")
    parser.add_argument("--prepared", type=Path, default=Path("data/prepared"), help="(default: %(default)s)")
    parser.add_argument("--package", type=Path, required=True, help="where llama.cpp's quantizer is installed")
    parser.add_argument("--tokens", type=int, default=12_288, help="of calibration text (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of llama.cpp (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/llamacpp.csv"), help="(default: %(default)s)")
    arguments = parser.parse_args(argv)
    documents = artifacts.read_table(arguments.prepared / "test.parquet", ["text"])["text"]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, file, folder in files(arguments, Path(scratch)):
            rows.append(measured(name, file, folder, documents, arguments.threads))
            print(rows[-1], file=sys.stderr)
    artifacts.write_csv(arguments.out, rows)


if __name__ == "__main__":
    exit_cleanly(main)
