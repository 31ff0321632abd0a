"""Bring in what references in a request refer to: addresses are fetched, data: URIs decoded, both checked."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

from soundstage.errors import RequestError, SoundstageError
from soundstage.intake.fetch import fetch
from soundstage.intake.guard import Guard
from soundstage.intake.inspection import Inspected, inspect_json
from soundstage.intake.limits import STANDARD, IntakeLimits
from soundstage.intake.rules import OFF, FetchRule
from soundstage.jobs.errors import TooLarge
from soundstage.jobs.references import Brought
from soundstage.jobs.views import AssetKind

DATA_URI = re.compile(r"data:([^,]{0,200}),", re.IGNORECASE)
BASE64 = ";base64"


@dataclass
class Intake:
    """Files from outside: `look` checks an upload, a call brings in what a request refers to."""

    rule: FetchRule = OFF
    limits: IntakeLimits = STANDARD
    guard: Guard = field(init=False)

    def __post_init__(self) -> None:
        self.guard = Guard(seconds=self.limits.look_s, memory_bytes=self.limits.look_bytes)

    def look(self, path: Path, kind: str) -> Inspected:
        """Return what a file is, as `inspect` does. kind: input, mask, lora, latents or data."""
        return Inspected(**self.guard.call(inspect_json, str(path), kind, asdict(self.limits)))

    def __call__(self, reference: str, where: str, folder: Path, kind: AssetKind = "input") -> Brought:
        """Bring a picture, video or sound into a folder, or a zip. Where it fails, nothing is left there.

        where: the place of the request, which messages name. kind: what it should be; data is a zip.
        """
        try:
            return self._brought(reference, folder, "data" if kind == "data" else "input")
        except SoundstageError as error:
            error.args = (f"{where}: {error}",)
            if isinstance(error, RequestError):
                error.field = where.partition("[")[0].partition(".")[0]
            raise

    def close(self) -> None:
        """End the processes that look into files."""
        self.guard.close()

    def _brought(self, reference: str, folder: Path, kind: AssetKind) -> Brought:
        is_data = reference[:5].lower() == "data:"
        path = self._decoded(reference, folder) if is_data else self._fetched(reference, folder)
        try:
            found = self.look(path, kind)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return Brought(path, None if is_data else _name(reference), found.media_type, found.info)

    def _fetched(self, url: str, folder: Path) -> Path:
        limits = self.limits
        return fetch(url, folder, rule=self.rule, max_bytes=limits.fetch_bytes, timeout_s=limits.fetch_s)

    def _decoded(self, uri: str, folder: Path) -> Path:
        data = decoded(uri, self.limits.data_uri_bytes)
        path = folder / f"data-{secrets.token_hex(16)}"
        path.write_bytes(data)
        return path


def decoded(uri: str, max_bytes: int) -> bytes:
    """Return the bytes of a data: URI. Raises RequestError for one that is damaged, and TooLarge."""
    head = DATA_URI.match(uri)
    if head is None:
        raise RequestError("the data: URI is damaged; give data:TYPE;base64,BYTES")
    rest = uri[head.end() :]
    if len(rest) * 3 // 4 > max_bytes + 3:
        raise TooLarge(f"the data: URI is larger than {max_bytes:,} bytes; upload the file")
    if not head[1].lower().replace(" ", "").endswith(BASE64):
        data = unquote_to_bytes(rest)
    else:
        try:
            data = base64.b64decode(unquote(rest).translate(_URL_SAFE), validate=True)
        except (binascii.Error, ValueError):
            raise RequestError("the data: URI holds no Base64; give data:TYPE;base64,BYTES") from None
    if not data:
        raise RequestError("the data: URI is empty; give data:TYPE;base64,BYTES")
    return data


_URL_SAFE = str.maketrans("-_", "+/")


def _name(url: str) -> str | None:
    """Return the last part of an address's path, as text."""
    path = url.partition("?")[0].partition("#")[0].partition("://")[2]
    return unquote(path.rpartition("/")[2]) or None if "/" in path else None
