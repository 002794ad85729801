"""A whole project on a tiny model: inputs, params, and a git repository that DVC runs in."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
DVC_SECONDS = 600  # before a hanging command is given up

# What differs from the committed params.yaml: the user's own model and text, and sizes for a model of three little layers.
TINY = {
    "threshold": 0.06,
    "model.source": "local",
    "model.path": "inputs/model",
    "dataset.source": "inputs/texts.jsonl",
    "dataset.questions": "inputs/questions.jsonl",
    "dataset.calibration_share": 0.2,
    "dataset.validation_share": 0.15,
    "dataset.test_share": 0.15,
    "dataset.validation_questions": 4,
    "dataset.test_questions": 8,
    "profile.sequence_length": 32,
    "prune_neurons.layers": 0,
    "prune_neurons.multiple_of": 4,
    "prune_neurons.sequence_length": 32,
    "finetune.batch_size": 2,
    "finetune.sequence_length": 32,
    "finetune.max_tokens": 60 * 64,  # 60 steps
    "finetune.evaluations": 3,  # after 20, 40 and 60
    "export.tokens": 512,
    "export.scale_tokens": 512,
    "evaluate.sequence_length": 64,
    "speech.tokens": 4,
    "runtime.batch_tokens": 512,
    "runtime.num_threads": 1,
}
OTHER_THRESHOLD = 0.08  # cuts more of the tiny model than TINY's


def write_inputs(folder: Path) -> None:
    """The user's side of a project: a checkpoint, texts and questions, in ``folder/inputs``."""
    tiny.write_checkpoint(folder / "inputs/model")
    shutil.rmtree(folder / "inputs/model-tokenizer")
    questions = [
        {"question": f"{text} Which organ is it?", "choices": tiny.WORDS[row : row + 4], "answer": row % 4}
        for row, text in enumerate(tiny.sentences(12, seed=5))
    ]
    texts: list[dict[str, Any]] = [{"text": text} for text in tiny.sentences(120)]
    for name, rows in {"texts": texts, "questions": questions}.items():
        (folder / f"inputs/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_params(path: Path, changes: dict[str, Any]) -> Path:
    """The committed params.yaml with ``changes``: ``section.key`` to value."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for name, value in changes.items():
        section, _, key = name.rpartition(".")
        (values[section] if section else values)[key] = value
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def contents(folder: Path) -> dict[str, str]:
    """A hash of every file that the stages and DVC wrote."""
    files = [*folder.glob("data/**/*"), *folder.glob("metrics/**/*"), folder / "dvc.lock"]
    hashes = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()) for path in files if path.is_file()}
    return {name: digest.hexdigest() for name, digest in hashes.items()}


def commands() -> Iterator[tuple[str, list[str]]]:
    """Each stage's name and its command's flags, in an order that works, a matrix once for each of its items."""
    order = ["fetch_model", "prepare_dataset", "write_general", "profile_activations", "count_tokens"]
    order += ["check_budget", "measure_damage", "plan_budget", "prune_neurons", "prune_embeddings"]
    for stage, items in [*((name, [""]) for name in order), ("evaluate", ["base", "pruned"]), ("finetune", [""])]:
        for item in items:
            yield stage, flags(stage, item)


def flags(stage: str, item: str = "") -> list[str]:
    """What stands behind the script in the stage's command."""
    command = STAGES[stage]["cmd"].replace("${item.checkpoint}", item).replace("${finetune.teacher}", "base")
    return shlex.split(command)[3:]


class Project:
    """A git repository with a copy of this checkout's files, as a clone would have them, and the tiny inputs."""

    def __init__(self, folder: Path) -> None:
        """Make it, with one commit."""
        self.folder = folder / "repo"
        self.env = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "DVC_NO_ANALYTICS": "1",
            # nothing of this machine's settings, nothing left on it
            "GIT_CONFIG_GLOBAL": os.devnull,
            **{f"DVC_{name}_DIR": str(folder / name) for name in ("SYSTEM_CONFIG", "GLOBAL_CONFIG", "SITE_CACHE")},
        }
        self._copy_checkout()
        write_inputs(self.folder)
        write_params(self.folder / "params.yaml", TINY)
        self.say("library")
        self.git("init", "--quiet")
        self.git("config", "user.name", "Test")
        self.git("config", "user.email", "test@example.org")
        self.commit("the project")

    def _copy_checkout(self) -> None:
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
        needed = ("src/", "stages/", ".dvc/", "dvc.yaml", ".dvcignore", ".gitignore")
        for name in filter(lambda name: name.startswith(needed) and (ROOT / name).is_file(), listed):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, self.folder / name)

    def say(self, word: str) -> None:
        """Let every stage print ``word`` and the path of a module it imports."""
        path = self.folder / "src/minigpts/errors.py"
        lines = [line for line in path.read_text().splitlines() if "__file__" not in line]
        path.write_text("\n".join([*lines, f'print("{word}:", __file__)']) + "\n")

    def git(self, *arguments: str) -> str:
        """Run git; give what it prints."""
        done = subprocess.run(["git", *arguments], cwd=self.folder, env=self.env, capture_output=True, text=True, check=True)
        return done.stdout

    def commit(self, message: str) -> None:
        """Commit everything that git doesn't ignore."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        self.committed = contents(self.folder)

    def dvc(self, *arguments: str, fails: bool = False) -> str:
        """Run DVC to its end; give what it and the stages print."""
        command = [sys.executable, "-m", "dvc", *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=DVC_SECONDS
        )
        assert (done.returncode != 0) == fails, f"{arguments}: exit code {done.returncode}\n{done.stdout}"
        return done.stdout

    def repro_killed_in_finetune(self, log: Path) -> int:
        """Run ``dvc repro`` and kill it with all it started as soon as tuning has a whole checkpoint; give that one's step."""
        markers: list[Path] = []
        with log.open("w") as output:
            command = [sys.executable, "-m", "dvc", "repro"]
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
            deadline = time.monotonic() + DVC_SECONDS
            while not markers and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)  # polling faster took a core from the stages
                markers = list(self.folder.glob(".scratch/finetune/*/checkpoint-*/curve.jsonl"))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert markers, log.read_text()
        assert process.returncode == -signal.SIGKILL, "finetune was over before it could be killed"
        return max(int(marker.parent.name.removeprefix("checkpoint-")) for marker in markers)

    def restore(self) -> None:
        """Back to the last commit and its data, as a user would."""
        self.git("checkout", "--", ".")
        self.git("clean", "--quiet", "--force", "inputs")
        if contents(self.folder) != self.committed:
            self.dvc("checkout")

    def clone(self, folder: Path) -> Project:
        """A colleague's clone of this repository, as git makes it: without the outs and without their cache."""
        self.git("clone", "--quiet", self.folder.as_posix(), folder.as_posix())
        clone = copy.copy(self)
        clone.folder, clone.env = folder, dict(self.env)
        clone.git("config", "user.name", "Colleague")
        clone.git("config", "user.email", "colleague@example.org")
        return clone

    def experiment(self, name: str) -> str:
        """The commit of a named experiment; empty while there is none."""
        return self.git("for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{name}").strip()

    def run_queue(self, name: str) -> str:
        """Start the queue, wait for the named experiment, and give what it printed."""
        self.dvc("queue", "start")
        deadline = time.monotonic() + DVC_SECONDS
        while not self.experiment(name):
            assert time.monotonic() < deadline, self.dvc("queue", "status")
            time.sleep(0.2)
        return self.dvc("queue", "logs", name)


def ran(output: str) -> list[str]:
    """The stages that DVC ran, in order."""
    return re.findall(r"^Running stage '(\S+)':$", output, re.MULTILINE)


def outs(lock: str) -> dict[str, str]:
    """The md5 of every out, from the text of a dvc.lock."""
    return {out["path"]: out["md5"] for stage in yaml.safe_load(lock)["stages"].values() for out in stage["outs"]}
