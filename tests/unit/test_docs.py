"""README.md and docs/ name what exists: paths, modules, targets, parameters, links; and the index lists every experiment."""

from __future__ import annotations

import itertools
import re
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from minigpts.gguf_layout.architectures import ARCHITECTURES
from minigpts.model.families import SPECS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXPERIMENTS = ROOT / "docs/experiments"
HEADING = re.compile(r"^## (\d{4}-\d\d-\d\d · .+ \((?:adopted|negative|superseded)\))$", re.MULTILINE)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@cache
def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {anchor(heading) for heading in re.findall(r"^#+ (.+)$", text(page), re.MULTILINE)}


def braces(path: str) -> list[str]:
    """Every path that ``a/{b,c}.json`` stands for."""
    found = re.fullmatch(r"(.*)\{(.+)\}(.*)", path)
    return [f"{found[1]}{middle}{found[3]}" for middle in found[2].split(",")] if found else [path]


@each_page
def test_every_path_of_the_code_is_there(page):
    named = re.findall(r"(?<![\w./-])(?:src|stages|benchmarks|tests|docs)/[\w./*{},-]*[\w/*}]", text(page))
    assert [path for name in named for path in braces(name) if not list(ROOT.glob(path.rstrip("/")))] == []


@each_page
def test_every_module_of_a_command_is_there(page, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    modules = set(re.findall(r"(?:python|N) -m ([\w.]*\w)", text(page))) - {"stages"}
    assert [name for name in sorted(modules) if find_spec(name) is None] == []


@each_page
def test_every_target_of_make_is_there(page):
    targets = sorted(set(re.findall(r"(?:`|^    |&& )make ([a-z]+)", text(page), re.MULTILINE)))
    done = subprocess.run(["make", "--dry-run", *(targets or ["help"])], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@each_page
def test_every_parameter_that_is_set_is_one(page):
    params = yaml.safe_load(text(ROOT / "params.yaml"))
    sections = {name for name, value in params.items() if isinstance(value, dict)}
    known = {f"{section}.{key}" for section in sections for key in params[section]} | (set(params) - sections)
    assert set(re.findall(r"(?:-S|--set) [\"']?([a-z_.]+)=", text(page))) <= known


@each_page
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text(page)):
        path, _, place = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not place or place in anchors(linked), target


def test_the_index_lists_every_experiment_newest_first():
    headings = {path: HEADING.findall(text(path)) for path in sorted(EXPERIMENTS.glob("*.md")) if path.name != "README.md"}
    expected = [(path.name, anchor(heading)) for path, found in headings.items() for heading in found]
    listed = re.findall(r"^\* .*?\]\(([\w.]+)#(\S+)\)", text(EXPERIMENTS / "README.md"), re.MULTILINE)
    assert sorted(listed) == sorted(expected)
    for places in ([place for _, place in listed], *([anchor(heading) for heading in found] for found in headings.values())):
        dates = [place[:10] for place in places]
        assert dates == sorted(dates, reverse=True)


def test_every_entry_has_its_question_and_tag():
    for path in EXPERIMENTS.glob("*.md"):
        if path.name == "README.md":
            continue
        entries = re.split(r"^## ", text(path), flags=re.MULTILINE)[1:]
        untagged = [entry.partition("\n")[0] for entry in entries if not HEADING.match(f"## {entry.partition(chr(10))[0]}")]
        assert untagged == []
        assert [entry.partition("\n")[0] for entry in entries if "**Question.**" not in entry or "\n|---" not in entry] == []


def test_the_table_of_families_is_the_codes():
    rows = re.findall(r"^\| .+ \| (`\w+`(?:, `\w+`)*) \|$", text(ROOT / "docs/adding_an_architecture.md"), re.MULTILINE)
    *cut, not_exported = (re.findall(r"\w+", row) for row in rows[:7])
    kinds = [(mixture, *kind) for mixture, kind in itertools.product((False, True), ((True, False), (False, False), (False, True)))]
    for names, kind in zip(cut, kinds, strict=True):
        facts = {
            name: (spec.experts is not None, bool(spec.attention_in), spec.recurrence is not None) for name, spec in SPECS.items()
        }
        assert names == sorted(name for name, fact in facts.items() if fact == kind)
    assert not_exported == sorted(SPECS.keys() - ARCHITECTURES.keys())
    assert f"{len(SPECS)} families" in text(ROOT / "README.md")
