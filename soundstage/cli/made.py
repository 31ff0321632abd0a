"""Read how a clip was made: from its file, from JSON, from the folder of a take."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundstage.errors import MediaError, RequestError

MAX_JSON_BYTES = 2**24


@dataclass(frozen=True)
class Made:
    """The way a clip was made, as far as its file says. take: the folder of the take that `path` is."""

    path: Path
    facts: dict[str, Any]
    take: Path | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """Return the fields of its request. Raises MediaError for a file that has none."""
        fields = self.facts.get("request")
        if not isinstance(fields, dict) or "prompt" not in fields:
            raise MediaError(f"{self.path} does not say what was asked for; only files of made clips do")
        return fields

    @property
    def num_windows(self) -> int:
        """Return how many windows of a take are finished."""
        from soundstage.request.take import WINDOWS

        return 0 if self.take is None else sum(1 for _ in self.take.glob(WINDOWS))


def read_made(path: Path) -> Made:
    """Return how a file was made, or a folder of numbered pictures or of a take, or what JSON asks for.

    Raises MediaError for a file that does not say, RequestError for JSON that cannot be read.
    """
    from soundstage.clip import read_provenance

    if path.is_dir():
        return _of_folder(path)
    if "%" in path.name and not path.exists() and path.suffix.lower() != ".exr":
        return Made(path, read_provenance(_numbered(path)))
    if _begins_with_brace(path):
        return Made(path, _read_json(path))
    return Made(path, read_provenance(path))


def _of_folder(folder: Path) -> Made:
    from soundstage.clip import read_provenance
    from soundstage.media.exr_sequence import is_exr_clip
    from soundstage.request.take import ASKED, stored_take

    stored = stored_take(folder)
    if stored:
        asked = stored.get(ASKED)
        return Made(folder, {**stored, **(asked if isinstance(asked, dict) else {})}, take=folder)
    if is_exr_clip(folder):
        return Made(folder, read_provenance(folder))
    first = min(folder.glob("*.png"), default=None)
    if first is None:
        raise MediaError(
            f"{folder} holds neither a take nor pictures of a clip; give a file that Soundstage wrote"
        )
    return Made(folder, read_provenance(first))


def _numbered(template: Path) -> Path:
    """Return the first picture of a template such as frames/%04d.png."""
    try:
        return template.with_name(template.name % 1)
    except (TypeError, ValueError):
        return template


def _begins_with_brace(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"
    except OSError:
        return False  # what reads the file says why


def _read_json(path: Path) -> dict[str, Any]:
    """Return what --json printed of a clip, or a request as the facts that hold it alone."""
    try:
        data = json.loads(path.read_bytes()[:MAX_JSON_BYTES].decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise RequestError(
                f"{path} holds several lines of JSON; `soundstage generate --prompts {path}` makes them all"
            ) from None
        raise RequestError(f"{path} is not JSON ({error}); give one object of a request's fields") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{path} cannot be read as JSON ({error})") from None
    if not isinstance(data, dict) or not {"request", "prompt"} & data.keys():
        told = data.get("error") if isinstance(data, dict) else None
        message = told.get("message") if isinstance(told, dict) else None
        answer = f"; it is a server's answer: {message}" if isinstance(message, str) else ""
        raise RequestError(f"{path} is JSON that says nothing of a clip{answer}")
    return data if "request" in data else {"request": data}
