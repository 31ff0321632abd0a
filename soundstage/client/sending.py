"""A request's fields as a server takes them: files of this machine become references to uploads."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from soundstage.clip import Clip
from soundstage.errors import RequestError, shown
from soundstage.jobs.references import ASSET, FILE, LORA, REMOTE, ReferencePlace, apart, kind_of, places
from soundstage.jobs.views import JobRequest
from soundstage.media.in_memory import InMemory
from soundstage.request.request import Request

JOB_WORDS = frozenset(JobRequest.model_fields) - {"kind", "request", "asset", "data", "training", "dataset"}
KNOWN = (ASSET, LORA, FILE, *REMOTE)  # beginnings of what a server looks up or fetches itself
PIECE = 2**20


@dataclass(frozen=True)
class Upload:
    """A file that a place of the fields needs. given: a path, or an array that is written to a file first."""

    place: ReferencePlace
    given: Path | InMemory

    @property
    def purpose(self) -> str:
        return kind_of(self.place)


def check_words(asked: Mapping[str, Any]) -> None:
    """Raise RequestError for words of a job that no server takes."""
    try:
        JobRequest.model_validate(asked)
    except ValidationError as error:
        found = error.errors()[0]
        name = ".".join(map(str, found["loc"]))
        raise RequestError(f"{name} is {found['input']!r}: {found['msg']}", field=name) from None


def latents_file(given: Any) -> Path:
    """Return a file of latents that is to be sent. Raises RequestError where there is none."""
    path = Path(given)
    if not path.is_file():
        raise RequestError(
            f"latents is {shown(str(given))}, and there is no such file; give its path, or "
            '"asset:ID" of an upload',
            field="latents",
        )
    return path


def split_words(words: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the words of a job (model, format, label, ...), and the fields of its request."""
    job = {key: value for key, value in words.items() if key in JOB_WORDS}
    return job, {key: value for key, value in words.items() if key not in JOB_WORDS}


def outgoing(prompt: str | Request, fields: Mapping[str, Any]) -> tuple[dict[str, Any], list[Upload]]:
    """Return the fields to send, without those at their defaults, and the files they need.

    Raises RequestError as the engine does, and for a file that is not there.
    """
    request = _request(prompt, fields)
    plain = Request(prompt="-").describe()
    found = {key: value for key, value in request.describe().items() if value != plain[key]}
    uploads = [_upload(request, place) for place in places(found)]
    return found, [upload for upload in uploads if upload is not None]


def _request(prompt: str | Request, fields: Mapping[str, Any]) -> Request:
    if not isinstance(prompt, Request):
        return Request(prompt=prompt, **apart(fields))
    if fields:
        raise RequestError(
            f"a Request was given, and {', '.join(fields)} beside it; put all into the Request"
        )
    return prompt


def _upload(request: Request, place: ReferencePlace) -> Upload | None:
    """Return the upload of a place; None where the server has what it names."""
    held = _held(request, place.where)
    if isinstance(held, InMemory):
        return Upload(place, held)
    if held.startswith(KNOWN):
        return None
    path = Path(held)
    if path.is_file():
        return Upload(place, path)
    if place.is_lora and path.name == held and path.suffix != ".safetensors":
        place.put(LORA + held)
        return None
    right = "give the path of a file"
    right += ", or the name of a LoRA on the server" if place.is_lora else ', or "asset:ID" of an upload'
    field = re.split(r"[.\[]", place.where)[0]
    raise RequestError(f"{place.where} is {shown(held)}, and there is no such file; {right}", field=field)


def _held(request: Request, where: str) -> Any:
    """Return what a place such as "guides[0].image" holds."""
    value: Any = request
    for part in re.findall(r"\w+", where):
        value = value[int(part)] if part.isdigit() else getattr(value, part)
    return value


def written(array: InMemory, folder: Path, fps: float) -> Path:
    """Write an array to a file without loss, and return its path. fps: the rate of frames that have none."""
    frames, waveform = array.frames, array.waveform
    if waveform is not None and len(waveform) > 2:
        raise RequestError(
            f"a sound of {len(waveform)} channels is given; save it to a file and pass its path"
        )
    if waveform is not None and len(waveform) == 1:
        waveform = waveform.repeat(2, axis=0)
    clip = Clip(frames, waveform, array.fps or fps, sample_rate_hz=array.sample_rate_hz)
    if frames is None:
        return clip.save(folder / "sound.wav")
    if len(frames) == 1 and waveform is None:
        return clip.save(folder / "picture.png")
    return clip.save(folder / "clip.mkv", codec="ffv1")


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()
