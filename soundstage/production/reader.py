"""Make the records of a script from the fields of its file, and keep what is wrong with each.

A shot that does not fit keeps its number and id, so that references to it are still checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from soundstage.errors import RequestError, listed, shown
from soundstage.production.faults import ScriptFault
from soundstage.production.files import with_files
from soundstage.production.script import CastMember, FilmFormat, FilmMix, FilmPlace, Look, Script, Shot
from soundstage.review.policy import SoundPolicy

FIELDS = ("title", "format", "look", "cast", "places", "sound", "mix", "seed", "shots")
STAND_IN = "stand-in"


def plain_key(text: str) -> str:
    """Return a key or place as fields are written: `same place as` is same_place_as."""
    return text.strip().replace(" ", "_").replace("-", "_")


def _keyed(value: Any) -> Any:
    return {plain_key(str(key)): item for key, item in value.items()} if isinstance(value, Mapping) else value


class ScriptReader:
    """Makes the records of a file one by one, and keeps what is wrong with each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: list[ScriptFault] = []

    def script(self, data: Mapping[str, Any]) -> Script | None:
        """Return the script, with stand-ins for what does not fit; None where it has no shots."""
        data = _keyed(data)
        for name in data:
            if name not in FIELDS:
                self._fault(name, f"{name} is not a field of a script; the fields are {listed(name, FIELDS)}")
        fields: dict[str, Any] = {name: data[name] for name in ("title", "seed") if name in data}
        for name, (kind, word) in _SECTIONS.items():
            if data.get(name) is not None:
                fields[name] = self._made(kind, data[name], name, word)
        fields["cast"] = self._named(CastMember, data.get("cast"), "cast")
        fields["places"] = self._named(FilmPlace, data.get("places"), "places")
        fields["shots"] = self._shots(data.get("shots"))
        for name in ("title", "shots"):
            if not fields.get(name) and not self._is_told(name):
                self._fault(name, f"{name} is missing; {_ASKED[name]}")
        if not fields["shots"]:
            return None
        found = {name: value for name, value in fields.items() if value is not None}
        found.setdefault("title", STAND_IN)
        made: Script | None = self._attempt("", lambda: Script(**found))
        if made is None:  # its title or seed
            found = {name: value for name, value in found.items() if name != "seed"} | {"title": STAND_IN}
            made = Script(**found)
        return made

    def _is_told(self, name: str) -> bool:
        return any(
            fault.place == name or fault.place.startswith((f"{name}[", f"{name}.")) for fault in self.faults
        )

    def _shots(self, value: Any) -> tuple[Shot, ...]:
        items = [value] if isinstance(value, str | Mapping) else value
        if items is None:
            return ()
        if not isinstance(items, list):
            self._fault("shots", f"shots is {shown(items)}; {_ASKED['shots']}")
            return ()
        made = [self._made(Shot, item, f"shots[{i}]", "action") for i, item in enumerate(items)]
        return tuple(shot or _stand_in(items[i], i) for i, shot in enumerate(made))

    def _named(self, kind: Any, value: Any, where: str) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self._fault(where, f"{where} is {shown(value)}; give names, such as `Ada: a small red ball`")
            return {}
        made = {
            str(name): self._made(kind, item, f"{where}.{name}", "description")
            for name, item in value.items()
        }
        return {name: item or kind(description=STAND_IN) for name, item in made.items()}

    def _made(self, kind: Any, value: Any, where: str, word: str) -> Any:
        """Return a record of a file's fields; None, and its faults kept, for one that does not fit."""
        if isinstance(value, str) and word:
            value = {word: value}
        if not isinstance(value, Mapping):
            name = where.rpartition(".")[2]
            self._fault(where, f"{name} is {shown(value)}; give {'words, or ' if word else ''}fields")
            return None
        fields = _keyed(value)
        if kind is Shot and "lines" in fields:
            fields["lines"] = self._lines(fields["lines"], f"{where}.lines")
        made = self._attempt(where, lambda: kind(**fields), kind.__name__)
        return None if made is None else with_files(made, self.folder)

    def _lines(self, value: Any, where: str) -> Any:
        """Return the lines of a shot with numbers as words. YAML reads `Ada: No` as false, which is told."""
        if isinstance(value, list):
            return [self._lines(item, f"{where}[{i}]") for i, item in enumerate(value)]
        if not isinstance(value, Mapping):
            return value
        words = dict(value)
        for who, says in words.items():
            if isinstance(says, bool) and who != "off_screen":
                why = "which YAML made of a word such as No; put it in quotation marks"
                self._fault(where, f"{who} says {shown(says)}, {why}")
            if isinstance(says, int | float) and who != "off_screen":
                words[who] = str(says)
        return words

    def _attempt(self, where: str, make: Callable[[], Any], kind: str = "Script") -> Any:
        try:
            return make()
        except RequestError as error:
            for told in error.sentences or (str(error),):
                self._fault(where, re.sub(rf"\b{kind}\b", _CALLED[kind], told))
            return None

    def _fault(self, place: str, why: str) -> None:
        self.faults.append(ScriptFault(place, why))


def _stand_in(item: Any, index: int) -> Shot:
    """Return a shot in place of one that does not fit, with its id if that fits."""
    action, name = f"{STAND_IN} {index}", _keyed(item).get("id") if isinstance(item, Mapping) else None
    try:
        return Shot(action=action, id=name)
    except RequestError:
        return Shot(action=action)


# The records of sections, and the field that words alone are.
_SECTIONS = {
    "format": (FilmFormat, ""),
    "look": (Look, "style"),
    "sound": (SoundPolicy, ""),
    "mix": (FilmMix, ""),
}
_CALLED = {
    "Script": "a script",
    "FilmFormat": "the format",
    "Look": "the look",
    "SoundPolicy": "the sound",
    "FilmMix": "the mix",
    "CastMember": "a cast member",
    "FilmPlace": "a place",
    "Shot": "a shot",
}
_ASKED = {
    "title": "give the film one, such as `title: Two balls`",
    "shots": "give a list of shots, each of them words or fields such as `action: A red ball bounces.`",
}
