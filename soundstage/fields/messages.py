"""Findings of pydantic as one RequestError, with one sentence for each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError

from soundstage.errors import RequestError, listed, near_first, nearest, shown
from soundstage.fields.describe import field_help, field_names

MAX_SENTENCES = 12  # of one message
OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "multiple_of")
NO_NUMBER = ("float_parsing", "float_type", "int_parsing", "int_type", "int_from_float")
# Words of pydantic's for what a field takes, and plain ones.
PLAIN_WORDS = {"valid string": "text", "valid number": "number", "valid integer": "whole number"}
_UNION_MEMBERS = ("float", "constrained-float", "literal", "str", "int")  # as pydantic names them in a place


def request_error(error: ValidationError, owner: type, what: str | None = None) -> RequestError:
    """Return one error with a sentence for each finding.

    owner: the class that refused. what: what messages call it; None is the name of the class.
    """
    known = field_names(owner)
    sentences, fields = [], []
    told: set[tuple[str, ...]] = set()
    findings = error.errors()
    for item in findings:
        if item["type"] == "too_short" and any(_is_within(other["loc"], item["loc"]) for other in findings):
            continue  # only because the entries that do not fit were left out
        loc = list(item["loc"])
        if loc and isinstance(loc[0], int):  # a positional argument
            loc[0] = known[loc[0]] if loc[0] < len(known) else f"argument {loc[0] + 1}"
        own_check = item["type"] == "value_error"
        path = _path(loc[:-2] if loc[-1:] == ["[key]"] else loc, indexed=own_check)
        fields.append(str(loc[0]) if loc else "")
        sentences.append(_sentence(path, item, owner, what or owner.__name__, told))
    unique = _merged(dict.fromkeys(sentences))
    more = [f"and {len(unique) - MAX_SENTENCES} more"] if len(unique) > MAX_SENTENCES else []
    shortened = [*unique[:MAX_SENTENCES], *more]
    return RequestError(
        "; ".join(shortened), field=(fields[0] or None) if len(unique) == 1 else None, sentences=shortened
    )


def _is_within(loc: Sequence[Any], outer: Sequence[Any]) -> bool:
    return len(loc) > len(outer) and tuple(loc[: len(outer)]) == tuple(outer)


def _merged(sentences: Iterable[str]) -> list[str]:
    """Return the sentences with those about one value, which fits no member of a union, as one."""
    wanted: dict[str, list[str]] = {}
    for sentence in sentences:
        found, _, asked = sentence.partition("; ")
        wanted.setdefault(found, []).append(asked)
    return ["; ".join(filter(None, (found, _either(asked)))) for found, asked in wanted.items()]


def _either(asked: Sequence[str]) -> str:
    """Return "give a number up to 9, or 'last'" for "give a number up to 9" and "it should be 'last'"."""
    first, *others = sorted(asked, key=lambda text: not text.startswith("give "))
    return ", or ".join(
        [first, *(text.removeprefix("give ").removeprefix("it should be ") for text in others)]
    )


def _path(loc: Sequence[Any], *, indexed: bool) -> str:
    """Return "guides[0].strength" for ("guides", 0, "strength"), without the names of union members.

    indexed: a last index is kept, of a record; plain values of a set or list have none.
    """
    text = ""
    while not indexed and len(loc) > 1 and isinstance(loc[-1], int):
        loc = loc[:-1]
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]" if text else ""
        elif part and part[0].islower() and "[" not in part and part not in _UNION_MEMBERS:
            text += f".{part}" if text else part
    return text


def _sentence(path: str, item: Any, owner: type, what: str, listed_already: set[tuple[str, ...]]) -> str:
    """Return the sentence of a finding. listed_already: fields that an earlier one lists; those are added."""
    nested = "." in path or "[" in path
    if item["type"] == "value_error":
        message = str(item["ctx"]["error"])
        name = path.partition("[")[0]
        if nested and "." not in path and message.startswith(f"{name} "):
            return f"{path}{message.removeprefix(name)}"
        return f"{path}: {message}" if nested else message
    if item["type"] in ("missing", "missing_argument"):
        index = f"[{item['loc'][-1]}]" if len(item["loc"]) > 1 and isinstance(item["loc"][-1], int) else ""
        return f"{path or what}{index} is missing; give one"
    if item["type"] in ("too_long", "too_short"):
        limits = item["ctx"]
        asked = f"most {limits['max_length']}" if "max_length" in limits else f"least {limits['min_length']}"
        count = limits["actual_length"]  # None where an iterator was left at the limit
        return f"{path} has {'more' if count is None else count} entries; give at {asked}"
    if item["type"] == "string_too_short" and not item["input"]:
        return f"{path} is empty; give words"
    if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return _unknown(item["loc"], owner, what, listed_already)
    verb = "has" if item["loc"][-1:] == ("[key]",) else "is"  # a mapping has keys
    given = item["input"]
    value = f"{given:.15g}" if isinstance(given, float) else shown(given)
    return f"{path} {verb} {value}; {_wanted(path, item, owner)}"


def _help(path: str, owner: type) -> Any:
    """Return what is known of a field; None within a mapping whose key has a dot."""
    try:
        return field_help(owner, _plain(path))
    except KeyError:
        return None


def _unknown(loc: Sequence[Any], owner: type, what: str, listed_already: set[tuple[str, ...]]) -> str:
    """Return the sentence about a name that is no field; it may be any text, with dots too."""
    place, name = _path(loc[:-1], indexed=True), str(loc[-1])
    names = tuple(field_names(owner, _plain(place)))
    told = name if name.isidentifier() else shown(name)
    of = f" of {what}"
    unknown = f"{place}.{told} is not a field" if place else f"'{told.strip(chr(39))}' is not a field{of}"
    if names in listed_already:
        near = nearest(name, names, 1)
        return f"{unknown}; did you mean {near[0]}?" if near else f"{unknown}; leave it out"
    listed_already.add(names)
    return f"{unknown}; the fields {f'of {place} ' if place else ''}are {listed(name, names)}"


def _wanted(path: str, item: Any, owner: type) -> str:
    asked = _help(path, owner)
    if asked is not None and (item["type"] in OUT_OF_RANGE or (item["type"] in NO_NUMBER and asked.range)):
        return f"give {asked.wanted}"
    if item["type"] == "literal_error":
        return f"it should be {_choices(str(item['input']), item['ctx']['expected'])}"
    if item["type"] == "tuple_type":
        return "it should be a list"
    wanted: str = item["msg"].partition(", unable to parse")[0]
    for theirs, plain in PLAIN_WORDS.items():
        wanted = wanted.replace(theirs, plain)
    return (wanted[0].lower() + wanted[1:]).replace("input should", "it should")


def _choices(value: str, expected: str) -> str:
    """Return pydantic's "'a', 'b' or 'c'" with the choices near a value first."""
    *most, last = (f"'{name}'" for name in near_first(value, re.findall(r"'([^']*)'", expected)))
    return f"{', '.join(most)} or {last}" if most else last


def _plain(path: str) -> str:
    return re.sub(r"\[\d+\]", "", path)
