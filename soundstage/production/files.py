"""Files that a script names, found from the script's own folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from soundstage.errors import RequestError
from soundstage.production.script import CastMember, FilmFormat, FilmMix, FilmPlace, Look, Shot
from soundstage.request.recipes import names_file
from soundstage.request.request import INPUT_FIELDS, Request


def with_files(made: Any, folder: Path) -> Any:
    """Return a record of a script with its files as absolute paths. folder: the script's."""
    match made:
        case CastMember():
            face, clip = _path(made.face, folder), _path(made.voice_clip, folder)
            return replace(made, face=face, voice_clip=clip, loras=_loras(made.loras, folder))
        case FilmPlace():
            return replace(made, image=_path(made.image, folder))
        case Look():
            return replace(made, loras=_loras(made.loras, folder))
        case FilmMix():
            return _mix(made, folder)
        case FilmFormat():
            recipes = {name: _recipe(getattr(made, name), folder) for name in ("recipe", "draft_recipe")}
            return replace(made, **recipes, request=_request(made.request, folder))
        case Shot():
            recipe, loras = _recipe(made.recipe, folder), _loras(made.loras, folder)
            return replace(made, recipe=recipe, loras=loras, request=_request(made.request, folder))
    return made


def _request(fields: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """Return fields of a request with their files; as they are where they are no fields of one."""
    try:
        written = Request(**{"prompt": "a shot", **fields}).describe()
    except RequestError:  # faults.py tells it
        return fields
    return {name: _below(written[name], folder) for name in fields}


def _below(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_below(item, folder) for item in value]
    if isinstance(value, Mapping):
        return {
            key: str(folder / item)
            if key in INPUT_FIELDS and isinstance(item, str) and (folder / item).is_file()
            else _below(item, folder)
            for key, item in value.items()
        }
    return value


def _mix(made: FilmMix, folder: Path) -> FilmMix:
    titles = tuple(
        title if title.font is None else replace(title, font=folder / title.font) for title in made.titles
    )
    music = tuple(replace(one, path=folder / one.path) for one in made.music)
    voices = tuple(replace(one, path=folder / one.path) for one in made.voice_over)
    tone = made.room_tone
    if tone is not None and tone.path is not None:
        tone = replace(tone, path=folder / tone.path)
    return replace(made, titles=titles, music=music, voice_over=voices, room_tone=tone)


def _path(path: str | None, folder: Path) -> str | None:
    return None if path is None else str(folder / Path(path).expanduser())


def _loras(loras: Any, folder: Path) -> Any:
    """Return LoRAs with their files; a name of an installed one stays."""
    return tuple(
        replace(lora, path=str(folder / lora.path)) if (folder / lora.path).is_file() else lora
        for lora in loras
    )


def _recipe(name: str | None, folder: Path) -> Any:
    return _path(name, folder) if name is not None and names_file(name) else name
