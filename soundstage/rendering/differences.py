"""What tells one take from another, in words: the fields whose values differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

MOST = 3  # fields that are named
# What a user asked for, before what follows from it. Of later groups only the first that differs is told.
GROUPS = (("request",), ("files", "model"), ("device", "dtype", "weights"), ("soundstage",))
MAX_LENGTH = 60  # of a value that is shown


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Return sentences on fields of JSON-ready facts that differ, such as "seed is 6, there it is 5".

    stored: of the take that is there. asked: of the one to be made.
    """
    rest = tuple({*stored, *asked} - {name for group in GROUPS for name in group})
    for group in (*GROUPS, rest):
        old, new = (dict(_leaves({k: facts[k] for k in group if k in facts})) for facts in (stored, asked))
        found = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        if found:
            told = [_sentence(key, old.get(key), new.get(key)) for key in found[:MOST]]
            return told + ([f"{len(found) - MOST} more"] if len(found) > MOST else [])
    return []


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every single value with its place, such as "guides[0].strength"."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{name}[{index}]")
    else:
        yield name.removeprefix("request."), value


def _sentence(name: str, old: Any, new: Any) -> str:
    if name.startswith("files."):
        return f"the model's file {name.removeprefix('files.')} is another"
    if any(str(value).startswith("content ") for value in (old, new)):
        return f"{name} has another content"
    return f"{name} is {_shown(new)}, there it is {_shown(old)}"


def _shown(value: Any) -> str:
    text = "not given" if value is None else str(value)
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}..."
