"""Addresses for one upload: a file is announced first, sent second, and named by the same address later.

A slot is a file in the data folder, named by 128 random bits. Who knows the address may send the file.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from pathlib import Path
from typing import Any

from soundstage.errors import RequestError
from soundstage.files import whole_file
from soundstage.jobs.errors import Gone, NotFound
from soundstage.jobs.service import Jobs
from soundstage.jobs.views import Owner

OPEN_S = 3600.0  # for the upload
KEPT_S = 48 * 3600.0
NAME = re.compile(r"[0-9a-f]{32}")


def announce(jobs: Jobs, owner: Owner, name: str | None) -> str:
    """Return a new slot. name: the client's for the file."""
    _forget_old(jobs)
    slot = secrets.token_hex(16)
    _write(jobs, slot, {"owner": owner.id, "until": time.time() + OPEN_S, "name": name, "asset": None})
    return slot


def opened(jobs: Jobs, slot: str) -> tuple[Owner, str | None]:
    """Return whose file an open slot awaits, and its name. Raises NotFound or Gone."""
    found = _read(jobs, slot)
    if found["until"] < time.time() or found["asset"] is not None:
        raise Gone("this address has taken its file, or its time is over; ask for a new one")
    owner = Owner(id=found["owner"], name=found["owner"])
    return owner, found["name"]


def fill(jobs: Jobs, slot: str, asset_id: str) -> None:
    """Keep which file came."""
    _write(jobs, slot, {**_read(jobs, slot), "asset": asset_id})


def asset_of(jobs: Jobs, slot: str, field: str) -> str:
    """Return the id of the file that came. Raises RequestError where none did."""
    try:
        found = _read(jobs, slot)["asset"]
    except NotFound:
        found = None
    if found is None:
        raise RequestError(f"{field} names an upload, and no file came there; send it first", field=field)
    return str(found)


def _folder(jobs: Jobs) -> Path:
    folder = jobs.data / "slots"
    folder.mkdir(exist_ok=True)
    return folder


def _read(jobs: Jobs, slot: str) -> dict[str, Any]:
    if NAME.fullmatch(slot) is None:
        raise NotFound("there is no such upload")
    try:
        found: dict[str, Any] = json.loads((_folder(jobs) / slot).read_text())
    except FileNotFoundError:
        raise NotFound("there is no such upload") from None
    return found


def _write(jobs: Jobs, slot: str, told: dict[str, Any]) -> None:
    with whole_file(_folder(jobs) / slot) as part:
        part.write_text(json.dumps(told))


def _forget_old(jobs: Jobs) -> None:
    for path in _folder(jobs).iterdir():
        try:
            if path.stat().st_mtime < time.time() - KEPT_S:
                path.unlink()
        except FileNotFoundError:
            continue
