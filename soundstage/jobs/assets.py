"""Files of a server: written aside, synced, renamed into place, and only then known to the store."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from soundstage.errors import RequestError
from soundstage.jobs import ids
from soundstage.jobs.core import Core
from soundstage.jobs.errors import Conflict, Gone
from soundstage.jobs.media_types import ZIP_TYPE
from soundstage.jobs.rows import asset_view
from soundstage.jobs.states import FINAL
from soundstage.jobs.store import RowValues, one
from soundstage.jobs.tables import assets, jobs, loras, uses
from soundstage.jobs.views import Asset, AssetKind, MadeFile, Owner, Page

# Endings of files by what they hold; others get none, and are read by their content.
ENDINGS = {
    "video/mp4": ".mp4", "video/webm": ".webm", "video/quicktime": ".mov", "video/x-matroska": ".mkv",
    "image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp", "image/gif": ".gif",
    "audio/wav": ".wav", "audio/mpeg": ".mp3", "audio/mp4": ".m4a", "audio/ogg": ".ogg",
    "audio/flac": ".flac", ZIP_TYPE: ".zip",
}  # fmt: skip
WEIGHTS_ENDING, WEIGHTS_KINDS = ".safetensors", ("lora", "latents")
INFO_FIELDS = ("width", "height", "fps", "num_frames", "duration_s", "sample_rate", "has_sound")
MAX_NAME = 255
TICKET_STEP_S = 300  # tickets of one stretch are the same, so that a player's address stays as it is
TICKET = re.compile(r"([0-9]{1,12})\.([0-9a-f]{32})")
SECRET_FILE, SECRET_BYTES = "secret", 32


@dataclass(frozen=True)
class PlacedFile:
    """A file in its place, which no row knows yet. fields: its row."""

    kind: AssetKind
    fields: Mapping[str, Any]


class AssetFiles(Core):
    """The files of `Jobs`."""

    def add_asset(
        self,
        owner: Owner,
        *,
        path: Path,
        kind: AssetKind,
        name: str | None,
        media_type: str,
        info: RowValues | None = None,
    ) -> Asset:
        """Take a file of an owner that lies in the folder of temporary files.

        A file that the owner has sent before is not kept twice. name: the client's, kept as text only.
        """
        self.require(owner, "submit")
        made = MadeFile(file=path.name, media_type=media_type, name=_name(name), info=dict(info or {}))
        placed = self.placed(kind, made)
        with self.store.writing() as db:
            same = sa.and_(
                assets.c.owner == owner.id,
                assets.c.sha256 == placed.fields["sha256"],
                assets.c.kind == kind,
                assets.c.job_id.is_(None),
            )
            known = db.execute(
                sa.update(assets).where(same).values(used_at=self.clock()).returning(*assets.c)
            ).first()
            if known is None:
                values = self.new_asset(owner.id, kind, None, placed.fields)
                row = db.execute(sa.insert(assets).values(**values).returning(*assets.c)).one()
                return asset_view(row, self.limits)
        self.remove_files([placed.fields["file"]])
        return asset_view(known, self.limits)

    def asset(self, owner: Owner, asset_id: str) -> Asset:
        """Return a file's record."""
        with self.store.reading() as db:
            return asset_view(self.asset_row(db, owner, asset_id), self.limits)

    def asset_path(self, owner: Owner, asset_id: str) -> Path:
        """Return where a file is. Raises Gone if it was deleted a moment ago."""
        with self.store.reading() as db:
            return self._path(self.asset_row(db, owner, asset_id).file)

    def ticketed_path(self, asset_id: str) -> tuple[Asset, Path]:
        """Return a file whose ticket was checked, without an owner."""
        with self.store.reading() as db:
            row = one(db, sa.select(assets).where(assets.c.id == asset_id))
        if row is None:
            raise Gone("the file was deleted")
        return asset_view(row, self.limits), self._path(row.file)

    def assets(
        self,
        owner: Owner,
        *,
        kind: AssetKind | None = None,
        after: str | None = None,
        limit: int = 20,
    ) -> Page[Asset]:
        """Return an owner's files, the newest first."""
        query = sa.select(assets).where(assets.c.owner == owner.id)
        if kind is not None:
            query = query.where(assets.c.kind == kind)
        with self.store.reading() as db:
            if after is not None:
                last = self.asset_row(db, owner, after)
                query = query.where(
                    sa.tuple_(assets.c.created_at, assets.c.id) < sa.tuple_(last.created_at, last.id)
                )
            rows = db.execute(
                query.order_by(assets.c.created_at.desc(), assets.c.id.desc()).limit(limit + 1)
            ).all()
        return page([asset_view(row, self.limits) for row in rows], limit)

    def delete_asset(self, owner: Owner, asset_id: str) -> None:
        """Delete an input. Raises Conflict for one in use, and for part of a job's result."""
        self.require(owner, "submit")
        with self.store.writing() as db:
            row = self.asset_row(db, owner, asset_id)
            if row.job_id is not None:
                raise Conflict(f"the file is part of the job {row.job_id}; delete the job")
            used = one(
                db,
                sa.select(jobs.c.id)
                .join(uses, uses.c.job_id == jobs.c.id)
                .where(uses.c.asset_id == asset_id, jobs.c.state.not_in(FINAL)),
            )
            if used is not None:
                raise Conflict(f"the job {used.id} still needs this file; cancel it first")
            if one(db, sa.select(loras.c.name).where(loras.c.asset_id == asset_id)) is not None:
                raise Conflict("the file is a registered LoRA; remove that first")
            db.execute(sa.delete(uses).where(uses.c.asset_id == asset_id))
            db.execute(sa.delete(assets).where(assets.c.id == asset_id))
        self.remove_files([row.file])

    # --- tickets ---------------------------------------------------------------------------------------

    def ticket(self, asset_id: str, seconds: float) -> str:
        """Return a word that opens one file for a while, for players that can send no key."""
        until = int((self.clock() + seconds) // TICKET_STEP_S + 1) * TICKET_STEP_S
        return f"{until}.{self._sign(asset_id, until)}"

    def check_ticket(self, asset_id: str, ticket: str) -> bool:
        """Return whether a ticket opens a file now."""
        found = TICKET.fullmatch(ticket)
        if found is None or int(found[1]) < self.clock():
            return False
        return hmac.compare_digest(found[2], self._sign(asset_id, int(found[1])))

    def secret(self, purpose: str) -> bytes:
        """Return this server's own secret for a purpose. It is made at first use, and stays."""
        path = self.data / SECRET_FILE
        try:
            root = path.read_bytes()
        except FileNotFoundError:
            root = self._make_secret(path)
        return hmac.digest(root, purpose.encode(), "sha256")

    def _make_secret(self, path: Path) -> bytes:
        part = self.tmp / ids.new_id("tmp")
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(os.urandom(SECRET_BYTES))
            _sync(file.fileno())
        try:
            os.link(part, path)  # the first of two servers that begin at once wins
        except FileExistsError:
            pass
        finally:
            part.unlink()
        return path.read_bytes()

    def _sign(self, asset_id: str, until: int) -> str:
        return hmac.digest(self.secret("tickets"), f"{asset_id} {until}".encode(), "sha256").hex()[:32]

    # --- files in place --------------------------------------------------------------------------------

    def placed(self, kind: AssetKind, made: MadeFile) -> PlacedFile:
        """Move a file from the temporary folder to its place.

        Raises RequestError for one that is not there.
        """
        source = self.tmp / Path(made.file).name
        if source.name != made.file or not source.is_file():
            raise RequestError(f"file is {made.file!r}, and no such file was handed in", field="file")
        size, digest = _read(source)
        ending = WEIGHTS_ENDING if kind in WEIGHTS_KINDS else ENDINGS.get(made.media_type, "")
        name = f"{ids.new_id('f')}{ending}"
        file = f"assets/{name[2:4]}/{name}"
        target = self.data / file
        target.parent.mkdir(exist_ok=True)
        os.replace(source, target)
        sync_folder(target.parent)
        info = {key: made.info[key] for key in INFO_FIELDS if made.info.get(key) is not None}
        fields = {"media_type": made.media_type, "bytes": size, "sha256": digest, "name": made.name}
        return PlacedFile(kind, {**fields, "file": file, "info": info})

    def replace_file(self, new: str, old: str) -> None:
        """Put a file in the place of another. Both are named below the data folder."""
        os.replace(self.data / new, self.data / old)

    def remove_files(self, files: Iterable[str]) -> None:
        """Remove files that no row knows any more."""
        for file in files:
            (self.data / file).unlink(missing_ok=True)

    def clear_checkpoint(self, job_id: str) -> None:
        """Remove a job's checkpoint."""
        shutil.rmtree(self.checkpoint_folder(job_id), ignore_errors=True)

    def _path(self, file: str) -> Path:
        path = self.data / file
        if not path.is_file():
            raise Gone("the file was deleted")
        return path


def page(found: list[Any], limit: int) -> Page[Any]:
    """Return a page of records, of which one more than the limit was read."""
    data = found[:limit]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return Page(data=data, first_id=first, last_id=last, has_more=len(found) > limit)


def sync_folder(folder: Path) -> None:
    """Write a folder's names to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        _sync(handle)
    finally:
        os.close(handle)


def _sync(handle: int) -> None:
    os.fsync(handle)


def _read(path: Path) -> tuple[int, str]:
    """Return the size and SHA-256 of a file, after writing it to the disk."""
    with path.open("rb") as file:
        _sync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def _name(name: str | None) -> str | None:
    """Return a client's name of a file as text of one line."""
    if name is None:
        return None
    return "".join(c if c.isprintable() else " " for c in name)[:MAX_NAME] or None
