"""The ids of shots and their seeds: stable while other shots are put in, taken out or moved.

An id is what the script gives, else the first words of its action: the shot "A red ball
rolls to the right." is red-ball-rolls-right, wherever it stands. Of shots that would have one id, the first
has it, and the others have a part of the hash of their words behind it.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

from soundstage.production.script import PREVIOUS, Script, Shot, ShotName

NUM_WORDS = 5
MAX_LETTERS = 40
SEEDS = 2**31
# Words that say nothing of a shot.
_SMALL_WORDS = "a an the and of to in on at by with from into onto it its is are as his her their int ext"
_SMALL = frozenset(_SMALL_WORDS.split())


def shot_ids(shots: Sequence[Shot]) -> tuple[str, ...]:
    """Return the id of each shot."""
    taken = {shot.id for shot in shots if shot.id is not None}
    found = []
    for shot in shots:
        name = shot.id
        if name is None:
            name = _free(_slug(shot), shot, taken)
            taken.add(name)
        found.append(name)
    return tuple(found)


def alike(shots: Sequence[Shot]) -> list[tuple[int, int]]:
    """Return (first, later) indexes of shots without an id that begin with the same words."""
    first: dict[str, int] = {}
    found = []
    for i, shot in enumerate(shots):
        if shot.id is None:
            slug = _slug(shot)
            if slug in first:
                found.append((first[slug], i))
            first.setdefault(slug, i)
    return found


def shot_seed(script: Script, shot: Shot, name: str) -> int:
    """Return the seed of a shot: its own, else one worked out from the film's seed and the shot's id."""
    if shot.seed is not None:
        return shot.seed
    digest = hashlib.sha256(f"{script.seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % SEEDS


def index_of(reference: ShotName, place: int, names: Sequence[str]) -> int | None:
    """Return the index of the shot that the shot at `place` refers to; None for one that is not there."""
    if reference == PREVIOUS and PREVIOUS not in names:
        return place - 1 if place else None
    if reference in names:
        return names.index(str(reference))
    text = str(reference)
    number = int(text) if re.fullmatch(r"\d{1,6}", text) else 0
    return number - 1 if 1 <= number <= len(names) else None


def _slug(shot: Shot) -> str:
    text = (
        unicodedata.normalize("NFKD", shot.action.replace("\u2019", "'"))
        .encode("ascii", "ignore")
        .decode()
        .lower()
    )
    text = re.sub(r"'s\b", "", text)  # of "Ada's hand"
    words = [word for word in re.findall(r"[a-z0-9]+", text) if word not in _SMALL][:NUM_WORDS]
    slug = "-".join(words)[:MAX_LETTERS].strip("-")
    return slug if slug[:1].isalpha() else f"shot-{slug or _hash(shot)}"


def _free(slug: str, shot: Shot, taken: set[str]) -> str:
    if slug not in taken:
        return slug
    name = f"{slug}-{_hash(shot)}"
    number = 2
    while name in taken:  # the very same shot again
        name, number = f"{slug}-{_hash(shot)}-{number}", number + 1
    return name


def _hash(shot: Shot) -> str:
    text = "\n".join([shot.heading, shot.action, shot.camera, *(line.says for line in shot.lines)])
    return hashlib.sha256(text.encode()).hexdigest()[:4]
