"""Keys of a server: long random secrets, of which only hashes are kept."""

from __future__ import annotations

import hmac
from collections.abc import Iterable

import sqlalchemy as sa

from soundstage.errors import RequestError
from soundstage.jobs import ids
from soundstage.jobs.core import Core
from soundstage.jobs.errors import NotFound
from soundstage.jobs.rows import key_view
from soundstage.jobs.store import one
from soundstage.jobs.tables import api_keys
from soundstage.jobs.views import Key, Owner, Scope

SCOPES: tuple[Scope, ...] = ("read", "submit", "admin", "worker")
USED_STEP_S = 60.0  # the time of last use is written this often at most
MAX_NAME = 200


class KeyRing(Core):
    """The keys of `Jobs`."""

    def create_key(self, owner: Owner | str, scopes: Iterable[Scope], name: str) -> tuple[str, str]:
        """Make a key for an owner; return its identifier and its secret, which is shown this once."""
        owner_id = owner if isinstance(owner, str) else owner.id
        wanted = sorted(set(scopes))
        unknown = [scope for scope in wanted if scope not in SCOPES]
        if unknown or not wanted:
            raise RequestError(
                f"scopes is {unknown or 'empty'}; give some of {', '.join(SCOPES)}", field="scopes"
            )
        for field, text in (("owner", owner_id), ("name", name)):
            if not 0 < len(text) <= MAX_NAME or not text.isprintable():
                raise RequestError(f"{field} is not 1 to {MAX_NAME} printable characters long", field=field)
        secret = ids.new_secret()
        row = {
            "id": ids.new_id("key"), "owner": owner_id, "name": name, "hash": ids.hash_of(secret),
            "scopes": wanted, "created_at": self.clock(),
        }  # fmt: skip
        with self.store.writing() as db:
            db.execute(sa.insert(api_keys).values(**row))
        return str(row["id"]), secret

    def owner_of(self, secret: str) -> Owner | None:
        """Return whom a secret belongs to; None for one that is unknown or revoked."""
        digest, now = ids.hash_of(secret), self.clock()
        with self.store.reading() as db:
            row = one(db, sa.select(api_keys).where(api_keys.c.hash == digest))
        if row is None or row.revoked_at is not None or not hmac.compare_digest(row.hash, digest):
            return None
        if row.last_used_at is None or row.last_used_at < now - USED_STEP_S:
            with self.store.writing() as db:
                db.execute(sa.update(api_keys).where(api_keys.c.id == row.id).values(last_used_at=now))
        return Owner(id=row.owner, name=row.name, scopes=frozenset(row.scopes), key_id=row.id)

    def has_keys(self) -> bool:
        """Return whether there is a key that a person could use; those of workers do not count."""
        return any("worker" not in key.scopes for key in self._all_keys())

    def keys(self, owner: Owner) -> list[Key]:
        """Return the keys that an owner may see: their own, or all for an admin."""
        return [key for key in self._all_keys() if self.sees(owner, key.owner)]

    def revoke_key(self, owner: Owner, key_id: str) -> None:
        """Revoke a key at once. Raises NotFound."""
        with self.store.writing() as db:
            row = one(db, sa.select(api_keys).where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None)))
            if row is None or not self.sees(owner, row.owner):
                raise NotFound(f"there is no key {key_id!r}")
            db.execute(sa.update(api_keys).where(api_keys.c.id == key_id).values(revoked_at=self.clock()))

    def _all_keys(self) -> list[Key]:
        query = sa.select(api_keys).where(api_keys.c.revoked_at.is_(None)).order_by(api_keys.c.created_at)
        with self.store.reading() as db:
            return [key_view(row) for row in db.execute(query)]
