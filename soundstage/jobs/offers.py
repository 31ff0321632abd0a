"""Models and LoRAs that a server offers by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row
from sqlalchemy.exc import IntegrityError

from soundstage.errors import RequestError, SoundstageError, listed, shown
from soundstage.jobs.admission import Admission
from soundstage.jobs.assets import AssetFiles
from soundstage.jobs.errors import Conflict, NotFound
from soundstage.jobs.limits import Limits
from soundstage.jobs.rows import asset_view
from soundstage.jobs.tables import assets, loras
from soundstage.jobs.views import Owner
from soundstage.library.adapters import adapter_facts
from soundstage.library.installed import Library
from soundstage.lora.metadata import read_names
from soundstage.weights.header import read_header

LORA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class Offers(AssetFiles):
    """The models and LoRAs of `Jobs`."""

    admission: Admission

    def models(self, owner: Owner) -> list[dict[str, Any]]:
        """Return the models that this server runs, the usual one first."""
        self.require(owner, "read")
        return [self._model(name) for name in self.admission.models]

    def model(self, owner: Owner, name: str) -> dict[str, Any]:
        """Return a model that this server runs. Raises NotFound."""
        self.require(owner, "read")
        if name not in self.admission.models:
            raise NotFound(
                f"there is no model {name!r}; this server has {listed(name, self.admission.models)}"
            )
        return self._model(name)

    def loras(self, owner: Owner) -> list[dict[str, Any]]:
        """Return the registered LoRAs by name, with what is known of each."""
        self.require(owner, "read")
        query = sa.select(loras.c.name.label("lora"), loras.c.created_at.label("added_at"), *assets.c)
        with self.store.reading() as db:
            rows = db.execute(
                query.join(assets, assets.c.id == loras.c.asset_id).order_by(loras.c.name)
            ).all()
        return [_lora_view(row, self.limits, self.data / row.file) for row in rows]

    def add_lora(self, owner: Owner, name: str, asset_id: str) -> dict[str, Any]:
        """Register a LoRA, uploaded or trained here, under a name that requests may use as "lora:NAME".

        Its header is read first: only .safetensors files with layers of the transformer are taken.
        """
        self.require(owner, "admin")
        if LORA_NAME.fullmatch(name) is None:
            raise RequestError(
                f"name is {shown(name)}; give letters, digits, '-', '_' and '.', at most 100", field="name"
            )
        path = self.asset_path(owner, asset_id)
        self._check_lora(path, asset_id)
        values = {"name": name, "asset_id": asset_id, "added_by": owner.id, "created_at": self.clock()}
        try:
            with self.store.writing() as db:
                db.execute(sa.insert(loras).values(**values))
        except IntegrityError:
            raise Conflict(
                f"there is a LoRA {name!r} already; remove it first, or give another name"
            ) from None
        return next(lora for lora in self.loras(owner) if lora["name"] == name)

    def remove_lora(self, owner: Owner, name: str) -> None:
        """Take a LoRA's name away; its file stays until its time is over. Raises NotFound."""
        self.require(owner, "admin")
        with self.store.writing() as db:
            if db.execute(sa.delete(loras).where(loras.c.name == name)).rowcount == 0:
                raise NotFound(f"there is no LoRA {name!r}")

    def _check_lora(self, path: Path, asset_id: str) -> None:
        try:
            read_names(read_header(path))
        except SoundstageError as error:
            told = str(error).replace(str(path), f"asset:{asset_id}")
            raise RequestError(told, field="asset") from None

    def _model(self, name: str) -> dict[str, Any]:
        try:
            _, engine = self.admission.engine(name)
        except SoundstageError as error:
            told = {"here": False, "problem": str(error), "defaults": {}}
        else:
            told = {"here": True, "problem": None, "defaults": engine.model.defaults.to_dict()}
        return {"id": name, "object": "model", "default": name == self.admission.models[0], **told}


def _lora_view(row: Row[Any], limits: Limits, path: Path) -> dict[str, Any]:
    """Return a registered LoRA, and what its header and the catalogue say of it; nothing for a lost file."""
    file = asset_view(row, limits).model_dump(mode="json")
    try:
        report = adapter_facts(path, Library.open(), row.sha256)
    except SoundstageError:
        report = None
    return {"name": row.lora, "object": "lora", "created_at": row.added_at, "asset": file, "report": report}
