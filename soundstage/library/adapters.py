"""The catalogue of adapters: what published ones are for, which of them a file is, and files by their names.

    adapter_named("union-control")              # what the catalogue knows
    recognised(file, library)                   # which published adapter a file is, and how that is known
    lora_path("union-control", library)         # the file of a name on this machine

A hash says for certain what a file is, where the hub has given one. Without, an exact published size is taken
together with the rank, and a name is no more than a name; each is said as what it is. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from soundstage.errors import RequestError, listed
from soundstage.library.catalog import CatalogFile, by_file_name, find
from soundstage.library.installed import Library
from soundstage.lora.folders import lora_file
from soundstage.lora.metadata import TRIGGER_NAMES, lora_references, read_names
from soundstage.weights.entry import WeightsFile
from soundstage.weights.header import is_there, read_header

ADAPTERS_FILE = Path(__file__).with_name("adapters.yaml")
SUFFIX = ".safetensors"
Known = Literal["hash", "size", "name"]


@dataclass(frozen=True)
class KnownAdapter:
    """A published adapter; fields are described in adapters.yaml. None or empty: not known."""

    name: str
    purpose: str
    file: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    reference: tuple[str, ...] = ()
    downscale: int | None = None
    rank: int | None = None
    strength: float | tuple[float, float] | None = None
    passes: Mapping[str, float] | None = None
    base: str | None = None
    prompt: str | None = None
    trigger: str | None = None

    @property
    def files(self) -> tuple[CatalogFile, ...]:
        """Return its downloads, the adapter itself first."""
        return tuple(find(name)[0] for name in self.file)

    @property
    def all_files(self) -> tuple[str, ...]:
        """Return the names of its downloads and of their copies."""
        return (*self.file, *self.copies)

    @property
    def usual(self) -> str | None:
        """Return the usual strength as text."""
        if self.strength is None:
            return None
        text = (
            f"{self.strength:g}"
            if isinstance(self.strength, float)
            else "{:g} to {:g}".format(*self.strength)
        )
        return text + "".join(f", {value:g} {name}" for name, value in (self.passes or {}).items())

    @property
    def unknown(self) -> tuple[str, ...]:
        """Return what of it is not published, in words."""
        lacking = {
            "repository": not self.file,
            "hash": True,
            "rank": self.rank is None,
            "reference downscale factor": bool(self.reference) and self.downscale is None,
            "usual strength": self.strength is None,
        }
        return tuple(what for what, is_lacking in lacking.items() if is_lacking)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values, with its files as the catalogue has them."""
        return {
            **asdict(self),
            "files": [file.to_dict() for file in self.files],
            "unknown": list(self.unknown),
        }


@dataclass(frozen=True)
class Recognised:
    """The published adapter that a file is. by: how that is known; a name alone is no proof."""

    adapter: KnownAdapter
    by: Known

    @property
    def told(self) -> str:
        """Return it in words."""
        how = {
            "hash": "its hash is the published one",
            "size": "its size and rank are the published ones; no hash is published",
            "name": "by its name alone, which proves nothing",
        }
        return f"{self.adapter.name} ({how[self.by]})"


@cache
def adapters() -> dict[str, KnownAdapter]:
    """Return the catalogue by name."""
    stored: dict[str, dict[str, Any]] = yaml.safe_load(ADAPTERS_FILE.read_text())
    lists = ("file", "copies", "reference")
    found = {}
    for name, fields in stored.items():
        values: dict[str, Any] = {k: tuple(v) if k in lists else v for k, v in fields.items()}
        if isinstance(values.get("strength"), list):
            values["strength"] = tuple(values["strength"])
        found[name] = KnownAdapter(name=name, **values)
    return found


def adapter_named(name: str) -> KnownAdapter:
    """Return a published adapter by its name or its file's. Raises RequestError for an unknown one."""
    found = _by_name(name)
    if found is None:
        raise RequestError(
            f"name is '{name}', and no published adapter is called so; near it are "
            f"{listed(name, adapters())}, and `soundstage loras list` shows all",
            field="name",
        )
    return found


def factor_notice(name: str, path: Path, downscale: int) -> str | None:
    """Return what to tell of an adapter given by name whose file says another factor than the catalogue."""
    adapter = _by_name(name)
    if adapter is None or adapter.downscale in (None, downscale) or name == str(path):
        return None
    return (
        f"the catalogue has the reference downscale factor {adapter.downscale} for {adapter.name}, and its "
        f"file {path} says {downscale}, which is used; give the reference's downscale for another"
    )


def recognised(file: WeightsFile, library: Library | None, sha256: str | None = None) -> Recognised | None:
    """Return which published adapter a file is; None if nothing shows it.

    library: knows the hashes that the hub gave for files that were pulled or verified. sha256: the file's.
    """
    size, rank = file.path.stat().st_size, largest_rank(file)
    if sha256 is not None and library is not None:
        for path, known in library.hashes.items():
            entry = by_file_name(Path(path).name)
            adapter = None if entry is None else _of_entry(entry)
            if known.source == "hub" and known.sha256 == sha256 and adapter is not None:
                return Recognised(adapter, "hash")
    for adapter in adapters().values():
        for entry in (find(name)[0] for name in adapter.all_files):
            if entry.exact and entry.num_bytes == size and adapter.rank in (None, rank):
                return Recognised(adapter, "size")
    entry = by_file_name(file.path.name)
    adapter = None if entry is None else _of_entry(entry)
    if adapter is None or entry is None or (entry.exact and entry.num_bytes != size):
        return None
    return Recognised(adapter, "name")


def adapter_facts(path: Path, library: Library | None = None, sha256: str | None = None) -> dict[str, Any]:
    """Return what is known of an adapter's file, JSON-ready: its own header first, then the catalogue.

    What neither says is None. Raises WeightsError for a file that is no LoRA of LTX-2.3.
    """
    file = read_header(path)
    names = read_names(file)
    references = lora_references(file, names)
    found = recognised(file, library, sha256)
    known = None if found is None else found.adapter
    own: dict[str, Any] = {
        "trigger": next((file.metadata[key] for key in TRIGGER_NAMES if file.metadata.get(key)), None),
        "base": file.metadata.get("model_version"),
        "downscale": references.downscale if references.in_context else None,
        "reference": [kind] if (kind := file.metadata.get("reference_kind")) else None,
        "rank": largest_rank(file),
    }
    catalogue = {key: getattr(known, key, None) for key in own}
    told = {key: value if value is not None else catalogue[key] for key, value in own.items()}
    return {
        "published": None if known is None else known.name,
        "known_by": None if found is None else found.by,
        "purpose": None if known is None else known.purpose,
        **told,
        "reference": list(told["reference"]) if told["reference"] else None,
        "strength": None if known is None else known.usual,
        "prompt": None if known is None else known.prompt,
        "hdr": references.hdr,
        "layers": len(names.pairs),
        "kind": " and ".join(names.kinds),
    }


def largest_rank(file: WeightsFile) -> int:
    """Return the largest rank of a LoRA's layers, by its header."""
    return max(pair.rank for pair in read_names(file).pairs.values())


# --- files by name ----------------------------------------------------------------------------------


def lora_path(name: str, library: Library) -> Path:
    """Return the file that a LoRA's name means: a path, a published adapter, or a file that is known here.

    Raises RequestError for a published one that is not on this machine, and for a name of nothing.
    """
    if is_there(Path(name)) or name.endswith(SUFFIX) or "/" in name:
        return lora_file(name)
    adapter = _by_name(name)
    if adapter is not None:
        here = library.find()
        wanted = (*adapter.file[:1], *adapter.copies)
        copies = [copy.path for file in wanted for copy in here.get(file, ()) if copy.complete]
        if copies:
            return copies[0]
    known = {path.stem.lower(): path for path in reversed(library.files()) if path.suffix == SUFFIX}
    if name.lower() in known:
        return known[name.lower()]
    raise RequestError(_not_here(name, adapter, known), field="loras")


def _not_here(name: str, adapter: KnownAdapter | None, known: Mapping[str, Path]) -> str:
    if adapter is None:
        near = listed(name, [*adapters(), *known])
        return (
            f"'{name}' is no file, no published adapter and no file known here; give a .safetensors file, or "
            f"a name such as {near}"
        )
    if adapter.file:
        return (
            f"'{name}' is published in {adapter.files[0].repository} and is not on this machine; `soundstage "
            f"loras pull {adapter.name}` fetches it, `soundstage models add PATH` makes a file known"
        )
    return (
        f"'{name}' is known by name only: where it is published is not; get its file, and give its path or "
        "`soundstage models add PATH`"
    )


def _by_name(name: str) -> KnownAdapter | None:
    key = name.lower().removesuffix(SUFFIX)
    by_file = {file.lower(): adapter for adapter in adapters().values() for file in adapter.all_files}
    return adapters().get(key) or by_file.get(key)


def _of_entry(entry: CatalogFile) -> KnownAdapter | None:
    return next((adapter for adapter in adapters().values() if entry.name in adapter.all_files), None)
