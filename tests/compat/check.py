"""Read tiny children of every family, and any others, under two versions of transformers, and compare what each makes of them.

Prints a line a child; exits with 1 where the two differ: in token ids, decoded text, the chat template, the generation
config, greedy continuations or bits per byte, or by more than 1e-5 in a logit or a hidden state.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from minigpts import artifacts
from minigpts.model.weights import read_tensors
from minigpts.vocabulary.trim import PROBES
from tests import tiny
from tests.compat import children

TOLERANCE = 1e-5
READER = Path(__file__).with_name("read_children.py")

Finding = tuple[dict[str, Any], dict[str, torch.Tensor]]


def main(argv: Sequence[str] | None = None) -> int:
    """The process's exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other", type=Path, required=True, help="python of the environment with the other version")
    parser.add_argument("--folder", type=Path, action="append", default=[], help="another checkpoint folder, any number of times")
    parser.add_argument("--text", type=Path, help="parquet whose first texts the --folder ones are scored on")
    parser.add_argument("--count", type=int, default=40, help="texts of --text (default: %(default)s)")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="minigpts-compat-") as scratch:
        if arguments.folder:
            texts = artifacts.read_table(arguments.text, ["text"])["text"][: arguments.count]
            folders = {str(folder): folder.resolve() for folder in arguments.folder}
        else:
            texts, folders = [*tiny.sentences(4), *PROBES], write_children(Path(scratch))
        found = [readings(python, Path(scratch), texts, folders) for python in (Path(sys.executable), arguments.other)]
    return report(folders, found)


def write_children(root: Path) -> dict[str, Path]:
    """Folders by what they hold."""
    folders = {}
    for index, name in enumerate(children.VARIANTS):
        for kind, folder in zip(("parent", "child"), children.write(root / str(index), name), strict=True):
            folders[f"{name}: {kind}"] = folder
    return folders


def readings(python: Path, scratch: Path, texts: Sequence[str], folders: Mapping[str, Path]) -> Finding:
    """What the reader finds in the environment of ``python``, which can't import this project."""
    out = scratch / f"found-{python.parents[1].name}"
    (scratch / "texts.json").write_text(json.dumps(texts))
    settings = {"HF_HOME": f"{out}-home", "HF_MODULES_CACHE": f"{out}-modules", "HF_HUB_OFFLINE": "1"}
    command = [str(part) for part in (python, "-I", READER, out, scratch / "texts.json", *folders.values())]
    subprocess.run(command, env={**os.environ, **settings}, check=True)
    return json.loads(Path(f"{out}.json").read_text()), read_tensors(Path(f"{out}.safetensors"))


def report(folders: Mapping[str, Path], found: Sequence[Finding]) -> int:
    """Print the table; 1 if a child differs."""
    versions = " and ".join(facts["version"] for facts, _ in found)
    print(f"transformers {versions}: largest differences of {len(folders)} folders")
    print(f"{'':40} {'logits':>8} {'hidden':>8}  {'bits per byte, each':39}  differs in")
    lines = {name: compare(str(folder), found) for name, folder in folders.items()}
    for name, (figures, differences) in lines.items():
        print(f"{name:40} {figures}  {', '.join(differences) or '-'}")
    failed = sum(bool(differences) for _, differences in lines.values())
    print(f"{len(folders) - failed} of {len(folders)} read the same")
    return int(failed > 0)


def compare(folder: str, found: Sequence[Finding]) -> tuple[str, list[str]]:
    """The figures of one folder's line, and what differs or went wrong."""
    facts = [of_all[folder] for of_all, _ in found]
    wrong = [f"{of_all['version']}: {told}" for of_all, _ in found if (told := told_by(of_all[folder]))]
    if any("error" in of_one for of_one in facts):
        return f"{'-':>8} {'-':>8}  {'-':39}", wrong
    apart = {kind: gap(*(tensors[f"{folder} {kind}"] for _, tensors in found)) for kind in ("logits", "hidden")}
    bits = [of_one["bits per byte"] for of_one in facts]
    differences = [kind for kind, value in apart.items() if not value <= TOLERANCE]
    differences += [name for name in facts[0] if name != "bits per byte" and facts[0][name] != facts[1][name]]
    differences += ["bits per byte"] if abs(bits[0] - bits[1]) > TOLERANCE else []
    figures = f"{apart['logits']:8.1e} {apart['hidden']:8.1e}  {bits[0]:<19.16g} {bits[1]:<19.16g}"
    return figures, differences + wrong


def told_by(facts: Mapping[str, Any]) -> str | None:
    """The exception that reading raised, or the first tensor that didn't fit."""
    return facts["error"] if "error" in facts else next(iter(facts["problems"]), None)


def gap(first: torch.Tensor, second: torch.Tensor) -> float:
    """The largest difference; infinite between different shapes."""
    return float((first - second).abs().max()) if first.shape == second.shape else float("inf")


if __name__ == "__main__":
    sys.exit(main())
