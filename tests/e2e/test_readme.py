"""What README tells a reader to type works: its commands on a project whose stages stand in, its Python lines on a tiny model."""

from __future__ import annotations

import re
import subprocess

from minigpts import params
from minigpts.corpus.settings import Settings
from minigpts.exporting.general_section import Provenance
from minigpts.importing.source import ModelSource
from tests import tiny
from tests.e2e.project import DVC_SECONDS, ROOT
from tests.e2e.stand_in import StandIn

README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    (found,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    return found


def test_the_commands_of_an_experiment(tmp_path):
    """In their order: each ends well, and leaves nothing but metrics for git. Starting the queue is test_frontier's."""
    project = StandIn(tmp_path)
    project.dvc("repro")
    project.commit("the run")
    commands = [line.partition("  #")[0].strip() for line in section("Experiments").splitlines() if line.startswith("    dvc ")]
    assert any(command.startswith("dvc exp run -S") for command in commands)
    assert any(command.startswith("dvc exp run --queue") for command in commands)
    for command in commands:
        if not command.startswith("dvc queue start"):
            done = subprocess.run(
                command.replace("dvc ", "python -m dvc ", 1),
                shell=True,
                cwd=project.folder,
                env=project.env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=DVC_SECONDS,
            )
            assert done.returncode == 0, f"{command}: {done.stdout}"
    queued = project.dvc("queue", "status")
    assert queued.count("Queued") == 3
    left = project.git("ls-files", "--others", "--exclude-standard").split()
    assert [path for path in left if not path.startswith("metrics/")] == []


def test_the_file_is_called_what_the_default_run_calls_it():
    sections = {"model": ModelSource, "dataset": Settings}
    model, dataset = (params.read(ROOT / "params.yaml", cls, section) for section, cls in sections.items())
    name = Provenance(model.name, None, None, None, dataset.name, 1, 1).name
    assert f"llama-cli -m data/export/{name}.gguf" in section("Talk to the child")


def test_the_python_lines(tmp_path, monkeypatch, capsys):
    (lines,) = re.findall(r"```python\n(.*?)```", section("Talk to the child"), re.DOTALL)
    folder = tiny.write_checkpoint(tmp_path / "data/checkpoints/finetuned")
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }} {{ m.content }}\n{% endfor %}")
    monkeypatch.chdir(tmp_path)
    exec(compile(lines, "README.md", "exec"), {})
    assert "user What is anemia?" in capsys.readouterr().out
