"""Hypothesis strategies that damage what is valid: bytes of a file, and values, names and shapes of what it says."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

DEEP = "@deep@"  # :func:`dumped` writes brackets in brackets in its place
_BRACKETS = "[" * 20_000 + "]" * 20_000
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 255, 2**31, 2**32 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400),
    *(0.0, 0.5, -1.5, 1e-320, 1e308, float("nan"), float("inf")),
    *(
        "",
        " ",
        "a",
        "0",
        "A",
        "null",
        "NaN",
        "\x00",
        "\x1b[2J",
        "\ud800",
        "\u202e",
        "\ufeff",
        "é心🫀",
        "[1, 2]",
        "a\tb\r\nc",
        "a" * 3000,
    ),
    *([], {}, [[]], [{}], [None], {"a": 1}, {"": None}, [1, "a"], DEEP),
)
PIECES: tuple[bytes, ...] = (
    *(b"\0", b"\n", b"\r", b"\r\n", b'"', b"'", b",", b"\t", b"{", b"}", b"[", b"]", b":", b"\\", b"\\u", b"-", b"1e999", b"%"),
    *(b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xc3", b"\xf0\x9f", b"\x80", b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\x7f" * 8),
)

_EDIT = st.tuples(st.integers(0, 7), st.integers(0, 2**24), st.integers(1, 64), st.integers(0, 2**16))


@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes, pieces: Sequence[bytes] = PIECES, within: int | None = None) -> bytes:
    """``content`` with one to four pieces lost, repeated, flipped, put in or written over, in its first ``within`` bytes."""
    found = bytearray(content)
    for kind, place, length, choice in draw(st.lists(_EDIT, min_size=1, max_size=4)):
        at = place % (min(len(found), within or len(found)) + 1)
        piece = pieces[choice % len(pieces)]
        match kind:
            case 0:
                del found[at : at + length]
            case 1:
                del found[at:]
            case 2:
                found[at:at] = found[at : at + length] * (1 + choice % 3)
            case 3 if at < len(found):
                found[at] ^= 1 << choice % 8
            case 4:
                found[at : at + len(piece)] = piece
            case _:
                found[at:at] = piece
    return bytes(found)


@st.composite
def damaged(draw: st.DrawFn, tree: Any, values: Sequence[Any] = VALUES) -> Any:
    """A value as JSON has them with one to three of its parts replaced, lost, repeated, renamed, moved or wrapped."""
    root = [copy.deepcopy(tree)]
    for kind, place, length, choice in draw(st.lists(_EDIT, min_size=1, max_size=3)):
        spots = _spots(root)
        holder, key = spots[place % len(spots)]
        value = values[choice % len(values)]
        match kind:
            case 0 if holder is not root:
                del holder[key]
            case 1 if isinstance(holder, list) and holder is not root:
                holder[key:key] = [copy.deepcopy(holder[key])] * (length % 3)
            case 2 if isinstance(holder, dict):
                holder[str(value)[:50]] = holder.pop(key)
            case 3:
                holder[key] = [holder[key]] if choice % 2 else {"a": holder[key]}
            case 4:
                other, name = spots[choice % len(spots)]
                holder[key] = copy.deepcopy(other[name])
            case 5 if isinstance(holder[key], int | float | str):
                holder[key] = str(holder[key]) if isinstance(holder[key], int | float) else len(holder[key])
            case _:
                holder[key] = copy.deepcopy(value)
    return root[0]


def _spots(root: list[Any]) -> list[tuple[Any, Any]]:
    """Every place of a value: what holds it, and its key there."""
    found: list[tuple[Any, Any]] = []
    waiting: list[Any] = [root]
    while waiting:
        holder = waiting.pop()
        for key, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
            found.append((holder, key))
            if isinstance(value, dict | list):
                waiting.append(value)
    return found


def dumped(tree: Any, escaped: bool = True) -> bytes:
    """The value as JSON, :data:`DEEP` included."""
    return json.dumps(tree, ensure_ascii=escaped).replace(f'"{DEEP}"', _BRACKETS).encode("utf-8", "surrogatepass")
