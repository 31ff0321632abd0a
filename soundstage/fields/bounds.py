"""Check for values that no field of a request can hold: one walk over plain values before they are read.

Libraries disagree about these values: pydantic takes True for 1, `float` fails on a whole number of 400
digits, a file name with a NUL is a ValueError of the system. Here each is one sentence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from soundstage.errors import SHOWN_LETTERS, RequestError, shown

MAX_DEPTH = 16
MAX_ITEMS = 2_000  # of a list or an object
MAX_LETTERS = 20_000
MAX_NUMBER = 2**63
# The fields that are true or false.
FLAGS = frozenset(
    {"keep_pixels", "allow_unfit", "cfg_star", "all_tokens", "references", "distilled", "tagged"}
    | {"loop", "burn_captions"}
    | {"motion", "cuts", "speech", "music", "tone", "silence", "sync"}  # what a review is asked
    | {"off_screen"}
)
# Fields that name files, whose names may hold bytes that are not UTF-8, as Python spells them.
PATHS = frozenset(
    {"image", "video", "audio", "mask", "file", "path", "folder", "recipe", "model", "paths"}
    | {"guides", "references", "controls", "source", "speakers", "loras", "data", "output", "prior_data"}
    | {"font"}
)


def check_fields(fields: Mapping[str, Any]) -> None:
    """Raise RequestError, with a sentence for each field that holds what no field takes."""
    wrong: dict[str, str] = {}
    for name, value in fields.items():
        try:
            check_values(value, name)
        except ValueError as error:
            wrong[name] = str(error)
    if wrong:
        field = next(iter(wrong)) if len(wrong) == 1 else None
        raise RequestError("; ".join(wrong.values()), field=field, sentences=wrong.values())


def check_values(value: Any, where: str = "", depth: int = 0) -> None:
    """Raise ValueError for a plain value that no field takes, naming its place.

    where: the place, such as "guides[0].strength". Objects that are not plain are left to their fields.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"{_place(where)} is nested more than {MAX_DEPTH} deep; give plain fields")
    if isinstance(value, bool):
        if where.rpartition(".")[2] not in FLAGS:
            raise ValueError(f"{where} is {str(value).lower()}; give a number or words")
    elif isinstance(value, (int, float)):
        _check_number(value, where)
    elif isinstance(value, str):
        _check_text(value, where)
    elif isinstance(value, Mapping):
        _check_count(value, where)
        for key, item in value.items():
            _check_text(str(shown(key) if isinstance(key, int) else key), _place(where))
            check_values(item, f"{where}.{key}" if where else str(key), depth + 1)
    elif isinstance(value, (list, tuple, set, frozenset)):
        _check_count(value, where)
        for i, item in enumerate(value):
            check_values(item, f"{where}[{i}]", depth + 1)


def _check_number(value: float, where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}; give a finite number")
    if isinstance(value, int) and abs(value) > MAX_NUMBER:
        raise ValueError(f"{where} is {shown(value)}; give a number that is not beyond 2^63")


def _check_text(value: str, where: str) -> None:
    if len(value) > MAX_LETTERS:
        raise ValueError(f"{_place(where)} has {len(value)} letters; give at most {MAX_LETTERS}")
    if "\0" in value and not where.endswith("prompt"):  # names of files and of things
        raise ValueError(f"{_place(where)} holds a NUL character; leave it out")
    if where.rpartition(".")[2].partition("[")[0] not in PATHS:
        check_words(value, _place(where))
    elif any(0xD800 <= ord(letter) < 0xDC80 or 0xDCFF < ord(letter) <= 0xDFFF for letter in value):
        raise ValueError(f"{_place(where)} holds half of a surrogate pair; give the name of a file")


def _check_count(value: Any, where: str) -> None:
    if len(value) > MAX_ITEMS:
        raise ValueError(f"{_place(where)} has {len(value)} entries; give at most {MAX_ITEMS}")


def _place(where: str) -> str:
    return where[:SHOWN_LETTERS] or "the request"


def check_words(value: str, field: str) -> None:
    """Raise ValueError for words with half a surrogate pair, which no encoder reads."""
    broken = [i for i, letter in enumerate(value) if 0xD800 <= ord(letter) <= 0xDFFF]
    if broken:
        raise ValueError(
            f"{field} holds a letter that is no Unicode character, letter {broken[0] + 1} of {len(value)}; "
            "were its bytes UTF-8?"
        )
