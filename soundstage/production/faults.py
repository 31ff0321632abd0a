"""Find what does not fit together in a script: names, references between shots, files, fields of requests.

Each fault has its place, such as "shots[2].continues", so that whoever has the file can say the line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundstage.errors import RequestError, listed, nearest, num_of, shown
from soundstage.production.names import index_of, shot_ids
from soundstage.production.script import FilmMix, Script, Shot
from soundstage.request.recipes import recipe_named
from soundstage.request.request import Request

_ALONE = "and there is no shot to be heard over; leave it out"
REFERENCES = ("continues", "same_place_as", "match_audio_of")


@dataclass(frozen=True)
class ScriptFault:
    """Something that does not fit. place: the field, such as "shots[2].continues". why: a sentence."""

    place: str
    why: str


def faults_of(script: Script) -> list[ScriptFault]:
    """Return all that does not fit together in a script; nothing where it can be made."""
    return [*_ids(script), *_film(script), *_cast(script), *_shots(script)]


def check_script(script: Script) -> None:
    """Raise RequestError, with a sentence for each fault of a script."""
    found = [f"{spoken(fault.place)}{fault.why}" for fault in faults_of(script)]
    if found:
        raise RequestError("; ".join(found), sentences=found)


def spoken(place: str) -> str:
    """Return "shot 3: " for "shots[2].continues", and "cast Ada: " for "cast.Ada.face"."""
    first, _, rest = place.partition(".")
    if first.startswith("shots["):
        return f"shot {int(first[6:-1]) + 1}: "
    named = rest.rpartition(".")[0] or rest
    return f"{first} {named}: " if named and first in ("cast", "places") else ""


def _ids(script: Script) -> Iterator[ScriptFault]:
    seen: dict[str, int] = {}
    for i, shot in enumerate(script.shots):
        if shot.id is None:
            continue
        key = shot.id.lower()  # ids are names of folders
        if key in seen:
            yield ScriptFault(
                f"shots[{i}].id", f"id is {shown(shot.id)}, which shot {seen[key] + 1} has; give another"
            )
        seen.setdefault(key, i)


def _film(script: Script) -> Iterator[ScriptFault]:
    for name in ("recipe", "draft_recipe"):
        yield from _recipe(getattr(script.format, name), f"format.{name}", name)
    fields = {"size": script.format.size, "fps": script.format.fps, **script.format.request}
    yield from _request(fields, "format.request")
    yield from _loras(script.look.loras, "look.loras")
    yield from _mix(script.mix)


def _mix(mix: FilmMix) -> Iterator[ScriptFault]:
    for name in ("music", "voice_over"):
        for i, one in enumerate(getattr(mix, name)):
            yield from _file(str(one.path), f"mix.{name}[{i}].path", "path", "a sound")
    for i, title in enumerate(mix.titles):
        if title.font is not None:
            yield from _file(str(title.font), f"mix.titles[{i}].font", "font", "a font")
    tone = None if mix.room_tone is None else mix.room_tone.path
    yield from _file(None if tone is None else str(tone), "mix.room_tone.path", "path", "a sound")


def _cast(script: Script) -> Iterator[ScriptFault]:
    for name, member in script.cast.items():
        yield from _file(member.face, f"cast.{name}.face", "face", "a picture")
        yield from _file(member.voice_clip, f"cast.{name}.voice_clip", "voice_clip", "a sound")
        yield from _loras(member.loras, f"cast.{name}.loras")
    for name, place in script.places.items():
        yield from _file(place.image, f"places.{name}.image", "image", "a picture")


def _shots(script: Script) -> Iterator[ScriptFault]:
    names = shot_ids(script.shots)
    for i, shot in enumerate(script.shots):
        at = f"shots[{i}]"
        yield from _speakers(script, shot, at)
        if shot.place is not None and shot.place not in script.places:
            told = _known("place", shot.place, script.places, "places")
            yield ScriptFault(f"{at}.place", told)
        for field in REFERENCES:
            yield from _reference(shot, i, field, names)
        if i == 0 and shot.transition == "dissolve":
            yield ScriptFault(
                f"{at}.transition", "transition is dissolve, and no shot is before it; use fade"
            )
        if i == 0 and shot.sound_lead_s:
            yield ScriptFault(f"{at}.sound_lead_s", f"sound_lead_s is {shot.sound_lead_s:g}, {_ALONE}")
        if i and shot.sound_lead_s and script.shots[i - 1].sound_lag_s:
            why = f"sound_lead_s is given, and sound_lag_s of shot {i} too, for one cut; keep one"
            yield ScriptFault(f"{at}.sound_lead_s", why)
        if i == len(names) - 1 and shot.sound_lag_s:
            yield ScriptFault(f"{at}.sound_lag_s", f"sound_lag_s is {shot.sound_lag_s:g}, {_ALONE}")
        if shot.recipe is not None:
            yield from _recipe(shot.recipe, f"{at}.recipe", "recipe")
        yield from _request(shot.request, f"{at}.request")
        yield from _loras(shot.loras, f"{at}.loras")


def _speakers(script: Script, shot: Shot, at: str) -> Iterator[ScriptFault]:
    for number, line in enumerate(shot.lines):
        if line.who not in script.cast:
            told = _known("who", line.who, script.cast, "cast")
            yield ScriptFault(f"{at}.lines[{number}]", told)


def _known(field: str, name: str, known: Any, what: str) -> str:
    if not known:
        return f"{field} is {shown(name)}, and the script has no {what}; add {name} to {what}"
    near = nearest(name, known)
    meant = f"did you mean {near[0]}? " if near else ""
    none = "which is none of the places" if what == "places" else "who is not of the cast"
    return f"{field} is {shown(name)}, {none}; {meant}{what} has {listed(name, known)}"


def _reference(shot: Shot, i: int, field: str, names: tuple[str, ...]) -> Iterator[ScriptFault]:
    value = getattr(shot, field)
    if value is None:
        return
    found = index_of(value, i, names)
    if found is not None and found < i:
        return
    told, earlier = f"{field} is {shown(value)}", "give the number or id of an earlier shot"
    if i == 0:
        told = f"{told}, and no shot is before the first; leave it out"
    elif found is None:
        near = nearest(str(value), names)
        meant = f"did you mean {near[0]}? " if near else ""
        told = f"{told}, and the film has {num_of(len(names), 'shot')}; {meant}{earlier}"
    elif found == i:
        told = f"{told}, which is this very shot; {earlier}"
    else:
        told = f"{told}, a later shot ({names[found]}); {earlier}"
    yield ScriptFault(f"shots[{i}].{field}", told)


def _recipe(name: str, place: str, field: str) -> Iterator[ScriptFault]:
    try:
        recipe_named(name)
    except (RequestError, ValueError) as error:
        told = str(error).replace("recipe is", f"{field} is", 1)
        yield ScriptFault(place, told)


def _request(fields: Any, place: str) -> Iterator[ScriptFault]:
    """Check the fields of a request, and the files that they name."""
    try:
        request = Request(**{"prompt": "a shot", **fields})
    except RequestError as error:
        for told in error.sentences or (str(error),):
            yield ScriptFault(place, told)
        return
    for where, file in request.files.items():
        if not where.startswith("loras"):
            yield from _file(file, place, where, "a file")


def _loras(loras: Any, place: str) -> Iterator[ScriptFault]:
    for lora in loras:
        # A name without a folder or an ending is looked up among the installed ones when shots are planned.
        if "/" in lora.path or lora.path.endswith(".safetensors"):
            yield from _file(lora.path, place, "path", "a .safetensors file")


def _file(path: str | None, place: str, field: str, what: str) -> Iterator[ScriptFault]:
    if path is not None and not Path(path).exists():
        yield ScriptFault(place, f"{field} is {shown(path)}, and there is no such file; give {what}")
