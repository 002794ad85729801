"""dvc.yaml says what is so: code deps are the import closure, params are those read, every out has one writer."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import operator
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from minigpts.params import Runtime

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"minigpts": ROOT / "src/minigpts", "stages": ROOT / "stages"}
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
TEACHER = "${finetune.teacher}"  # the one param that names a path: which checkpoint to distil from
DVC_YAML = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8").replace(TEACHER, PARAMS["finetune"]["teacher"]))["stages"]
WRITTEN = ("outs", "metrics", "plots")

stages = pytest.mark.parametrize("stage", DVC_YAML)


# What the code does, read from its syntax trees


def files_of(module: str) -> set[Path]:
    """The files that importing ``module`` runs: its packages' and its own; none if it is not the project's."""
    package, *names = module.split(".")
    path, files = PACKAGES.get(package), set()
    for name in [None, *names]:
        if path is None:
            return files
        path = path if name is None else path / name
        if path.is_dir():
            files.add(path / "__init__.py")
        elif path.with_suffix(".py").is_file():
            return files | {path.with_suffix(".py")}
        else:
            return files  # an attribute of the module, not a module
    return files


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """The syntax tree of a Python file as a list, without what only a type checker looks at; empty for another file."""
    found = [ast.parse(path.read_text(encoding="utf-8"))] if path.suffix == ".py" else []
    for node in found:  # grows on the way
        skip = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        found += node.orelse if skip else ast.iter_child_nodes(node)
    return found


def needs(path: Path) -> set[Path]:
    """The project's files that one file imports, anywhere in it, or names as a file beside it (a template)."""
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {file for alias in node.names for file in files_of(alias.name)}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}:{node.lineno}: relative imports are not followed here"
            found |= {file for alias in node.names for file in files_of(f"{node.module}.{alias.name}")}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[\w.-]+\.\w+", node.value):
            found |= {path.with_name(node.value)} if path.with_name(node.value).is_file() else set()
    return found


def closure(stage: str) -> set[Path]:
    """Every file of the project that ``python -m stages.<stage>`` may run or read."""
    found, waiting = set(), files_of(f"stages.{stage}")
    while waiting:
        path = waiting.pop()
        found.add(path)
        waiting |= needs(path) - found
    return found


def as_deps(files: set[Path]) -> list[str]:
    """The files as dvc.yaml lists them: a package stands as its folder where at least half of its files are needed.

    An ``__init__.py`` of nothing but a docstring runs nothing.
    """
    deps = set()
    for path in files:
        if path.name == "__init__.py" and len(ast.parse(path.read_text(encoding="utf-8")).body) <= 1:
            continue
        inside = [folder for folder in path.parents if any(root in folder.parents for root in PACKAGES.values())]
        wholes = [folder for folder in inside if 2 * len(files & members(folder)) >= len(members(folder))]
        deps.add([path, *wholes][-1].relative_to(ROOT).as_posix())
    return sorted(deps)


@functools.cache
def members(folder: Path) -> set[Path]:
    """Every file in a package and below, without Python's bytecode."""
    return {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def params_read(path: Path) -> Iterator[tuple[str, str | None, tuple[str, ...]]]:
    """The calls of ``params.read`` in a file: the dataclass as written, the section, the fields from the top level.

    A stage that runs another stage's code reads its params, too.
    """
    for node in nodes(path):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "params.read":
            _, cls, section, *rest = node.args
            rest += [keyword.value for keyword in node.keywords]
            yield ast.unparse(cls), ast.literal_eval(section), ast.literal_eval(rest[0]) if rest else ()
        elif (
            isinstance(node, ast.Call)
            and (other := re.fullmatch(r"(\w+)\.run", ast.unparse(node.func)))
            and path.parent == PACKAGES["stages"]
        ):
            for cls, section, top_level in params_read(PACKAGES["stages"] / f"{other[1]}.py"):
                yield f"{other[1]}.{cls}", section, top_level


# What dvc.yaml says


def expanded(stage: str) -> list[dict]:
    """The stage, once for each item of its matrix."""
    spec = {key: value for key, value in DVC_YAML[stage].items() if key != "matrix"}
    matrix = DVC_YAML[stage].get("matrix", {"": [""]})
    ((name, items),) = matrix.items()
    return [yaml.safe_load(yaml.safe_dump(spec).replace(f"${{item.{name}}}", item)) for item in items]


def listed(spec: dict, *keys: str) -> dict[str, dict]:
    """Paths under the keys, with their settings."""
    entries = [entry for key in keys for entry in spec.get(key, ())]
    return {path: settings for entry in entries for path, settings in (entry if isinstance(entry, dict) else {entry: {}}).items()}


def is_code(dep: str) -> bool:
    return dep.startswith(("stages/", "src/"))


@stages
def test_code_deps_are_the_import_closure(stage):
    needed = as_deps(closure(stage))
    deps = DVC_YAML[stage]["deps"]
    declared = [dep for dep in deps if is_code(dep)]
    lines = "\n".join(f"      - {dep}" for dep in [*(dep for dep in deps if not is_code(dep)), *needed])
    assert declared == needed, f"the deps of {stage} in dvc.yaml should be\n{lines}"


@stages
def test_params_listed_are_those_read(stage):
    script = importlib.import_module(f"stages.{stage}")
    read, used = list(params_read(Path(script.__file__))), set()
    for cls, section, top_level in read:
        fields = {field.name for field in dataclasses.fields(operator.attrgetter(cls)(script))}
        if section is not None:
            assert fields - set(top_level) == set(PARAMS[section]), f"{cls} and section {section} of params.yaml differ"
        assert set(top_level) <= fields
        used |= {*top_level, *([section] if section else [])}
    assert set(DVC_YAML[stage].get("params", ())) == used - {"runtime"}, f"what {stage} reads; the machine is never listed"


@stages
def test_only_the_stage_reads_params(stage):
    elsewhere = {path.name: list(params_read(path)) for path in closure(stage) if path.parent != PACKAGES["stages"]}
    assert not any(elsewhere.values()), elsewhere


def test_every_param_is_some_stages():
    used = {name for spec in DVC_YAML.values() for name in spec.get("params", ())}
    assert used | {"runtime"} == set(PARAMS)
    assert {field.name for field in dataclasses.fields(Runtime)} == set(PARAMS["runtime"])


@stages
def test_command_is_the_script_and_its_paths_are_declared(stage):
    for spec in expanded(stage):
        words = shlex.split(spec["cmd"])
        assert words[:3] == ["python", "-m", f"stages.{stage}"]
        flags, paths = words[3::2], words[4::2]
        assert all(flag.startswith("--") for flag in flags)
        assert len(flags) == len(paths)
        declared = [path for path in listed(spec, "deps", *WRITTEN) if not is_code(path)]
        for path in paths:
            assert any(_within(path, other) or _within(other, path) for other in declared), f"{path} is not declared"
        for other in declared:
            assert any(_within(other, path) for path in paths), f"{other} is declared, but no flag of the command leads to it"


def _within(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder)


@stages
def test_nothing_but_the_matrix_is_substituted(stage):
    known = {f"item.{name}" for name in DVC_YAML[stage].get("matrix", {})}
    assert set(re.findall(r"\$\{\s*(.*?)\s*\}", yaml.safe_dump(DVC_YAML[stage]))) == known


def test_every_out_has_one_writer_and_every_dep_is_an_out():
    specs = [spec for stage in DVC_YAML for spec in expanded(stage)]
    written = [path for spec in specs for path in listed(spec, *WRITTEN)]
    assert not [path for path, count in Counter(written).items() if count > 1]
    nested = [(a, b) for a in written for b in written if a != b and _within(a, b)]
    assert not nested, "an out inside another"
    read = {path for spec in specs for path in listed(spec, "deps") if not is_code(path)}
    assert [path for path in sorted(read) if not any(_within(path, out) for out in written)] == []


def test_what_is_small_goes_into_git_and_the_rest_into_the_cache():
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    for stage in DVC_YAML:
        for spec in expanded(stage):
            for path, settings in listed(spec, *WRITTEN).items():
                if path.startswith("metrics/") and not path.endswith(".html"):
                    assert settings.get("cache") is False, f"{path}: needs {{cache: false}}"
                    assert f"/{path}" not in ignored, f"{path} belongs into git"
                else:
                    assert settings.get("cache", True), f"{path}: DVC must cache it"
                    assert f"/{path}" in ignored, f"/{path} must stand in .gitignore by hand: DVC adds it only after the stage"


def test_dvc_lists_the_summary_alone():
    """`dvc exp show` and `dvc metrics diff` have a column for every metric: the other files stand with the plots."""
    assert [path for stage in DVC_YAML for path in listed(DVC_YAML[stage], "metrics")] == ["metrics/summary.json"]


def test_no_plain_out_is_uncached():
    """DVC keeps no run of a stage with one: going back to a param would run it again. Metrics and plots don't matter."""
    plain = [(stage, path, settings) for stage in DVC_YAML for path, settings in listed(DVC_YAML[stage], "outs").items()]
    assert [(stage, path) for stage, path, settings in plain if settings.get("cache") is False] == []


def test_every_stage_says_what_it_does():
    assert [stage for stage in DVC_YAML if not DVC_YAML[stage].get("desc")] == []


def test_no_out_persists():
    """``persist: true`` would switch the run cache off and let a changed stage start from its old result."""
    settings = [value for stage in DVC_YAML for spec in expanded(stage) for value in listed(spec, *WRITTEN).values()]
    assert not [value for value in settings if "persist" in value]


def test_only_evaluation_reads_the_test_text():
    """Whatever else read it could be chosen by it."""
    readers = [stage for stage, step in DVC_YAML.items() if "data/prepared/test.parquet" in step["deps"]]
    assert readers == ["evaluate", "evaluate_exported"]
