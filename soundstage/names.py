"""Lists of known names for messages about an unknown one, those near it first."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

CUTOFF = 0.6  # of difflib's ratio, from which on a name is near
NUM_NEAR = 4


def nearest(name: str, known: Iterable[str], count: int = NUM_NEAR) -> list[str]:
    """Return the known names that are near a mistyped one, the nearest first; case does not count."""
    by_key: dict[str, str] = {}
    for known_name in known:
        by_key.setdefault(known_name.lower(), known_name)
    key = name.lower()
    found = difflib.get_close_matches(key, by_key, n=count, cutoff=CUTOFF)
    begins = [k for k in by_key if len(key) > 1 and k.startswith(key) and k not in found]
    return [by_key[k] for k in (*found, *begins)][:count]


def near_first(name: str, known: Iterable[str]) -> list[str]:
    """Return all known names once, those near a mistyped one before the others, which keep their order."""
    names = list(dict.fromkeys(known))
    near = nearest(name, names)
    return [*near, *(other for other in names if other not in near)]


def listed(name: str, known: Iterable[str]) -> str:
    """Return the known names for a message, "fast, pro, hq", those near the mistyped one first."""
    return ", ".join(near_first(name, known))
