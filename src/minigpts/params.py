"""Reads ``params.yaml`` into the dataclass of the stage that asks.

A stage declares its parameters as a frozen dataclass without defaults: every value stands in ``params.yaml``, where DVC sees
it. Unknown keys, missing keys and values of the wrong type are refused by name. The file is read as YAML 1.2, as DVC reads
and writes it: ``no``, ``on`` and ``12:30`` are text, ``1e-05`` and ``0o7`` are numbers.
"""

from __future__ import annotations

import argparse
import math
import shlex
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ruamel.yaml import YAML, YAMLError

from minigpts.errors import UserError

T = TypeVar("T")

# Everything that may stand at the top level of params.yaml: sections and, first, single values.
TOP_LEVEL = (
    "threshold",
    "embedding_threshold",
    "tune_parent",
    "model",
    "dataset",
    "profile",
    "budget",
    "damage",
    "prune_neurons",
    "write_general",
    "finetune",
    "precision",
    "export",
    "evaluate",
    "speech",
    "runtime",
)


@dataclass(frozen=True)
class Runtime:
    """The ``runtime`` section: how this machine runs the work. No stage lists it, so changing it reruns nothing."""

    batch_tokens: int  # tokens in one forward batch of scoring and tuning: memory, speed, and a result's last digits
    num_threads: int | None  # torch's intra-op threads; null takes torch's own choice
    launcher: str | None  # the command that starts a stage's processes, before `-m stages.<name> …`; null: one process

    def __post_init__(self) -> None:
        require(self.batch_tokens >= 1, "runtime.batch_tokens must be ≥ 1", self.batch_tokens)
        require(self.num_threads is None or self.num_threads >= 1, "runtime.num_threads must be ≥ 1", self.num_threads)
        require(self.launcher is None or _is_command(self.launcher), "runtime.launcher must be a command or null", self.launcher)


def _is_command(text: str) -> bool:
    try:
        return bool(shlex.split(text))
    except ValueError:  # a quotation mark without its other
        return False


_PARAMS = argparse.ArgumentParser(add_help=False)
_PARAMS.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: %(default)s")


def flags(
    argv: Sequence[str] | None, description: str | None, required: Mapping[str, str], optional: Mapping[str, str] | None = None
) -> argparse.Namespace:
    """Parse a stage's command: a path for each flag, by name with what ``--help`` says of it, and ``--params``.

    ``argv`` None takes the process's own arguments. An ``optional`` flag that isn't given is None.
    """
    parser = argparse.ArgumentParser(description=description, parents=[_PARAMS])
    for name, meaning in required.items():
        parser.add_argument(f"--{name}", type=Path, required=True, help=meaning)
    for name, meaning in (optional or {}).items():
        parser.add_argument(f"--{name}", type=Path, help=meaning)
    return parser.parse_args(argv)


def launcher(argv: Sequence[str]) -> str | None:
    """``runtime.launcher`` of the params that a stage's command names, whatever its other flags are."""
    return read(_PARAMS.parse_known_args(argv)[0].params, Runtime, "runtime").launcher


def require(condition: bool, rule: str, got: object) -> None:
    """Raise a :class:`UserError` naming the rule and the value it was given, unless ``condition`` holds."""
    if not condition:
        raise UserError(f"params.yaml: {rule}, got {got!r}")


def read(path: Path, cls: type[T], section: str | None, top_level: tuple[str, ...] = ()) -> T:
    """Build ``cls`` from ``section`` of the file, taking the fields named in ``top_level`` from the file's top level.

    ``section`` is None for a stage whose parameters all stand there.
    Raises UserError for a file that is no YAML mapping, an unknown or missing key, or a value of the wrong type.
    ``cls.__post_init__`` checks ranges, through :func:`require`.
    """
    document = _read_mapping(path)
    for key in document:
        if key not in TOP_LEVEL:
            raise UserError(f"{path}: unknown parameter '{key}'; known at the top level: {', '.join(TOP_LEVEL)}")
    if section is not None and section not in document:
        raise UserError(f"{path}: section '{section}' is missing")
    values = {} if section is None else document[section]
    if not isinstance(values, dict):
        raise UserError(f"{path}: section '{section}' must be a mapping, got {values!r}")
    names = {field.name for field in fields(cls)} - set(top_level)  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise UserError(f"{path}: unknown parameter '{section}.{key}'; known: {', '.join(sorted(names))}")
    hints = get_type_hints(cls)
    arguments = {}
    for field in fields(cls):  # type: ignore[arg-type]
        where = field.name if field.name in top_level else f"{section}.{field.name}"
        holder = document if field.name in top_level else values
        if field.name not in holder:
            raise UserError(f"{path}: parameter '{where}' is missing")
        arguments[field.name] = _coerce(holder[field.name], hints[field.name], f"{path}: {where}")
    return cls(**arguments)


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        document = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the project's folder") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        problem = str(getattr(error, "problem", error)).splitlines()[0]  # a character that may not be there is told in two
        raise UserError(f"{path}:{line} not valid YAML ({problem})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; save it as that") from None
    if not isinstance(document, dict):
        raise UserError(f"{path}: must be a mapping of parameters")
    return document


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """``value`` as the annotated type. Raises UserError naming ``where`` it stands."""
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        (inner,) = [option for option in options if option is not type(None)]
        return _coerce(value, inner, where)
    if origin is Literal:
        if value not in options or isinstance(value, bool) is not isinstance(options[0], bool):
            raise UserError(f"{where} must be one of {', '.join(map(str, options))}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise UserError(f"{where} must be a list, got {value!r}")
        return tuple(_coerce(item, options[0], where) for item in value)
    if hint is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{where} must be a number, got {value!r}")
        if not math.isfinite(value):
            raise UserError(f"{where} must be a finite number, got {value!r}")
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UserError(f"{where} must be of type {hint.__name__}, got {value!r}")
    return value
