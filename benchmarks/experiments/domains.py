"""Between domains: the pipeline on several, each child on every domain's text, and what calibration on the own text is worth.

python -m benchmarks.experiments.domains [--data FOLDER | NAME=TEXT[,QUESTIONS] …] [--size 0.42] [--set KEY=VALUE …]

``--data`` names a folder with a folder a domain in it (``text.*``, and ``mcq.*`` where there are questions), or single domains
by their files; without it the domains that need no network run. Queues a DVC experiment a domain, runs the queue, and writes
into benchmarks/results, rows of other domains staying: domains.csv, how each child does on its own domain (the columns paper_*
are for figures of arXiv 2312.12682, written in by hand, and stay as they are); cross_domain.csv, each child on each domain;
calibration_domains.csv, the parent untuned, cut by one domain's calibration text and scored on another's test text; and
pictures. ``--collect`` queues nothing and takes the experiments that are there.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.experiments import cross_domain, domain_figures, queue
from benchmarks.experiments.cross_domain import Run
from benchmarks.table import merge
from minigpts import artifacts
from minigpts.errors import UserError, exit_cleanly

EMBEDDED = ("medical", "embedded-legal")
METRICS = ("summary", "finetune", "base", "finetuned")
FETCHED = {
    "child": "data/checkpoints/finetuned",
    "params.yaml": "params.yaml",
    **{name: f"data/prepared/{name}" for name in ("calibration.parquet", "test.parquet", "mcq.jsonl")},
    **{name: f"data/profile/{name}" for name in ("activation_stats.safetensors", "token_counts.parquet")},
}
PAPER = ("paper_acc_parent", "paper_acc")
QUESTION_FILES = ("mcq.*", "questions.*")


def domains(words: Sequence[str]) -> dict[str, list[str]]:
    """What ``--data`` asks for: each domain's name, and its params as ``-S`` takes them."""
    if not words:
        return {name: [f"dataset.domain={name}", "dataset.source=null", "dataset.questions=null"] for name in EMBEDDED}
    found: dict[str, list[str]] = {}
    for word in words:
        name, equals, files = word.partition("=")
        if equals:
            text, _, questions = files.partition(",")
            found[name] = _settings(Path(text), Path(questions) if questions else None)
        else:
            found |= _in_folder(Path(word))
    return found


def _in_folder(folder: Path) -> dict[str, list[str]]:
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        for text in sorted(path.glob("text.*"))[:1]:
            questions = [file for pattern in QUESTION_FILES for file in sorted(path.glob(pattern))]
            found[path.name] = _settings(text, questions[0] if questions else None)
    if not found:
        raise UserError(f"--data {folder}: no folder with a file text.* in it; or give NAME=TEXT[,QUESTIONS]")
    return found


def _settings(text: Path, questions: Path | None) -> list[str]:
    for path in (text, questions):
        if path is not None and not path.exists():
            raise UserError(f"--data {path}: no such file")
    return [f"dataset.source={_quoted(text)}", f"dataset.questions={_quoted(questions) if questions else 'null'}"]


def _quoted(path: Path) -> str:
    """As ``-S`` takes it, whatever the path holds; whole, since an experiment runs in a folder of its own."""
    escaped = str(path.resolve()).replace("'", "\\'")
    return f"'{escaped}'"


def row(run: Run) -> dict[str, Any]:
    """The domain's line of domains.csv; empty where there are no questions, or where the parent wasn't reached again."""
    base, child = run.metrics["base"], run.metrics["finetuned"]
    return {
        "domain": run.name,
        "size_reduction": run.metrics["summary"]["size_reduction"],
        "tuned_tokens": run.metrics["finetune"]["tokens"],
        "bits_per_byte_parent": base["bits_per_byte"],
        "bits_per_byte": child["bits_per_byte"],
        "acc_parent": base.get("acc"),
        "acc": child.get("acc"),
        "acc_stderr": child.get("acc_stderr"),
        **dict.fromkeys(PAPER),
        "recovery_tokens": run.metrics["finetune"].get("recovered_at_tokens"),
    }


def fetched(domain: str, experiment: str, folder: Path) -> Run:
    """A finished experiment's figures, and what it made in ``folder``."""
    folder.mkdir()
    for name, path in FETCHED.items():
        queue.fetch(experiment, path, folder / name)
    return Run(domain, folder, queue.metrics(experiment, METRICS))


def main(argv: Sequence[str] | None = None) -> None:
    """Queue, run, collect; cross; write and draw. Each file is written as soon as its rows are there."""
    arguments = _parser().parse_args(argv)
    if not 0 < arguments.share < 1:
        raise UserError(f"--share must be > 0 and < 1, got {arguments.share}")
    wanted = domains(arguments.data)
    names = {queue.named("domain", domain): domain for domain in wanted}
    if not arguments.collect:
        size = f"budget.target_size_reduction={arguments.size}"
        queue.queue({name: [size, *wanted[names[name]], *arguments.settings] for name in names})
        queue.work_off(list(names), arguments.hours, "domain")
    finished = queue.finished(names)
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        queue.fetch(finished[0], "data/checkpoints/base", base)
        runs = [fetched(names[name], name, Path(scratch) / name) for name in tqdm(finished, desc="collecting", unit="domain")]
        own = arguments.out / "domains.csv"
        papers = {line["domain"]: {name: line[name] for name in PAPER} for line in artifacts.read_csv(own)} if own.exists() else {}
        _write(own, [{**row(run), **papers.get(run.name, {})} for run in runs], ["domain"])
        draw(arguments.out, domain_figures.of_statistics(runs))
        calibrated = cross_domain.calibration(runs, base, arguments.share, arguments.calibration_tokens, arguments.test_tokens)
        _write(arguments.out / "calibration_domains.csv", calibrated, ["domain", "calibrated_on", "refit"])
        print("\n".join(cross_domain.own_against_other(calibrated)))
        crossed = cross_domain.matrix(runs)
        _write(arguments.out / "cross_domain.csv", crossed, ["domain", "evaluated_on"])
        draw(arguments.out, domain_figures.of_matrices(crossed, calibrated))


def _write(path: Path, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> None:
    merge(path, rows, lambda line: tuple(str(line[key]) for key in keys))


def draw(folder: Path, pictures: Sequence[domain_figures.Picture]) -> None:
    """Write the pictures as domains_<name>.png."""
    for picture in pictures:
        with artifacts.replacing(folder / f"domains_{picture.name}.png") as temporary:
            temporary.write_bytes(picture.png())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=[], metavar="FOLDER | NAME=TEXT[,QUESTIONS]", help="default: embedded domains")
    parser.add_argument("--size", type=float, default=0.42, help="share of the parameters to go (default: %(default)s)")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="a further -S of dvc exp run"
    )
    parser.add_argument("--collect", action="store_true", help="queue nothing: collect the experiments that are there")
    parser.add_argument("--share", type=float, default=0.5, help="of the MLP neurons, cut for calibration_domains.csv (0.5)")
    parser.add_argument("--calibration-tokens", type=int, default=16384, help="for the same (default: %(default)s)")
    parser.add_argument("--test-tokens", type=int, default=16384, help="for the same (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder (default: %(default)s)")
    parser.add_argument("--hours", type=float, default=24, help="before the queue is given up (default: %(default)s)")
    return parser


if __name__ == "__main__":
    exit_cleanly(main)
