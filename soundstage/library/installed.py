"""Find what of LTX-2.3 is on this machine, and where: downloads, added files, other programs' folders.

    library = Library.open()
    library.add([Path("~/ComfyUI")])                          # a folder to look through
    library.add([Path("t.safetensors"), ...], name="mine")    # a model: `--model mine`
    library.find()                                            # catalogue name -> where it is

What was added is kept in models.json in the user's config folder. ComfyUI, WanGP and the hub's cache are
looked for in their usual places, and where COMFYUI_PATH and WANGP_PATH point. Only names and sizes are read
here; what a file really holds, identify.py says. Loads no torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import platformdirs
import yaml

from soundstage.errors import ConfigError, RequestError, WeightsError, listed, nearest
from soundstage.library.catalog import FILES, MODELS, CatalogFile, by_file_name, find, gigabytes
from soundstage.library.identify import SUFFIXES
from soundstage.weights.header import is_there

COMFYUI_HOMES = (
    "ComfyUI",
    "comfyui",
    "Documents/ComfyUI",
    "comfy/ComfyUI",
    "ComfyUI_windows_portable/ComfyUI",
)
WANGP_HOMES = ("Wan2GP", "WanGP", "wan2gp", "pinokio/api/wan.git/app")
REQUIRED = ("model", "part")


@dataclass(frozen=True)
class SearchedFolder:
    """A folder that is searched for model files. label: its name for people."""

    label: str
    folder: Path


@dataclass(frozen=True)
class Found:
    """A published file on this machine. complete: False if its published size is known and is another."""

    path: Path
    label: str
    num_bytes: int
    complete: bool

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        complete = {"num_bytes": self.num_bytes, "complete": self.complete}
        return {"path": str(self.path), "in": self.label, **complete}


@dataclass(frozen=True)
class KnownHash:
    """SHA-256 of a file when it had this size. source: "hub", or "first seen" if nobody vouched for it."""

    sha256: str
    num_bytes: int
    source: str


@dataclass
class Library:
    """paths: added files and folders. models: added models, a name for several paths. hashes: by path."""

    registry: Path
    paths: list[Path] = field(default_factory=list)
    models: dict[str, list[Path]] = field(default_factory=dict)
    hashes: dict[str, KnownHash] = field(default_factory=dict)

    @classmethod
    def open(cls, registry: Path | None = None) -> Library:
        """registry: a file, made by the first `add`. Raises ConfigError for one that is damaged."""
        registry = registry or Path(platformdirs.user_config_dir("soundstage")) / "models.json"
        if not registry.is_file():
            return cls(registry)
        try:
            stored = json.loads(registry.read_text())
            return cls(
                registry,
                [Path(path) for path in stored["paths"]],
                {name: [Path(path) for path in paths] for name, paths in stored["models"].items()},
                {path: KnownHash(**known) for path, known in stored["hashes"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(
                f"{registry} is damaged ({error}); delete it and add your models again"
            ) from error

    def add(self, paths: Sequence[Path], name: str | None = None) -> None:
        """Remember files and folders, under a name if they are one model. Does not look into them.

        Raises RequestError for a path that is not there and a name that means something else.
        """
        missing = [str(path) for path in paths if not is_there(path)]
        if missing:
            raise RequestError(f"there is no {', '.join(missing)}; check the path", field="path")
        paths = [path.absolute() for path in paths]
        if name is not None:
            _check_name(name)
            self.models[name] = list(paths)
        else:
            self.paths += [path for path in paths if path not in self.paths]
        self.save()

    def forget(self, name_or_path: str) -> None:
        """Undo `add`. Deletes no weights. Raises RequestError for what was not added."""
        path = Path(name_or_path).absolute()
        if name_or_path in self.models:
            del self.models[name_or_path]
        elif path in self.paths:
            self.paths.remove(path)
        else:
            known = listed(name_or_path, [*self.models, *map(str, self.paths)]) or "nothing"
            raise RequestError(f"name is '{name_or_path}', which was not added; added: {known}", field="name")
        self.save()

    def remember_hash(self, path: Path, sha256: str, source: str) -> None:
        self.hashes[str(path.absolute())] = KnownHash(sha256, path.stat().st_size, source)
        self.save()

    def known_hash(self, path: Path) -> KnownHash | None:
        return self.hashes.get(str(path.absolute()))

    def save(self) -> None:
        self.registry.parent.mkdir(parents=True, exist_ok=True)
        stored = {
            "paths": [str(path) for path in self.paths],
            "models": {name: [str(path) for path in paths] for name, paths in self.models.items()},
            "hashes": {path: asdict(known) for path, known in self.hashes.items()},
        }
        temporary = self.registry.with_name(f"{self.registry.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(stored, indent=2) + "\n")
        os.replace(temporary, self.registry)

    def searched_folders(self) -> list[SearchedFolder]:
        """Return the folders that exist and are searched, each once."""
        added = [SearchedFolder("added", path) for path in self.paths if path.is_dir()]
        found = [
            SearchedFolder("downloaded", models_folder()),
            *(inner for folder in added for inner in _inside(folder)),
            *_comfyui(),
            *_wangp(),
            SearchedFolder("Hugging Face cache", hub_cache()),
        ]
        unique: dict[Path, SearchedFolder] = {}
        for searched in found:
            if searched.folder.is_dir():
                unique.setdefault(searched.folder.resolve(), searched)
        return list(unique.values())

    def find(self) -> dict[str, list[Found]]:
        """Return where published files are, by catalogue name; complete ones first."""
        found: dict[str, list[Found]] = {}
        for label, path in self._candidates():
            for entry in _entries(path):
                found.setdefault(entry.name, []).append(_found(entry, path, label))
        return {name: sorted(copies, key=lambda copy: not copy.complete) for name, copies in found.items()}

    def files(self) -> list[Path]:
        """Return all weights files that were added or are in a searched folder."""
        return [path for _, path in self._candidates() if path.is_file()]

    def complete(self, entries: Sequence[CatalogFile]) -> dict[str, Found]:
        """Return a complete copy of each entry that has one, by name.

        A folder counts as none: the hub is asked file by file what it lacks.
        """
        found = self.find()
        copies = {
            e.name: [c for c in found.get(e.name, ()) if c.complete] for e in entries if not e.is_folder
        }
        return {name: complete[0] for name, complete in copies.items() if complete}

    def below(self, paths: Sequence[Path]) -> list[tuple[str, Found]]:
        """Return the published files at or below some paths, with their names."""
        roots = {path.absolute() for path in paths}
        copies = [(name, copy) for name, found in self.find().items() for copy in found]
        return [(name, copy) for name, copy in copies if roots & {copy.path, *copy.path.parents}]

    def listing(self, found: Mapping[str, Sequence[Found]]) -> dict[str, Any]:
        """Return the catalogue and what was added as JSON-ready values. found: the result of `find`."""
        files = [
            {**entry.to_dict(), "here": [copy.to_dict() for copy in found.get(entry.name, ())]}
            for entry in FILES
        ]
        added = {name: [str(path) for path in paths] for name, paths in self.models.items()}
        return {"models": MODELS, "files": files, "added": added, "paths": [str(path) for path in self.paths]}

    def lookup(self, name: str) -> tuple[Path, ...] | None:
        """Return the files of an added model or of one in the catalogue; None for a name that is neither.

        Raises RequestError if the catalogue has it and this machine does not, WeightsError if an added
        model's file is gone.
        """
        if name in self.models:
            gone = [str(path) for path in self.models[name] if not path.exists()]
            if gone:
                raise WeightsError(
                    f"model '{name}' was added with {', '.join(gone)}, which is gone; add it again"
                )
            return tuple(self.models[name])
        try:
            entries = find(name)
        except RequestError:
            return None
        return self._published(name, entries)

    def names(self, asked: str) -> list[str]:
        """Return names of added models, then published ones; published files only near the asked name."""
        return [*self.models, *MODELS, *nearest(asked, (entry.name for entry in FILES))]

    def _published(self, name: str, entries: Sequence[CatalogFile]) -> tuple[Path, ...]:
        here = self.find()
        paths = [_first(here, entry) for entry in entries]
        lacking = [e for e, path in zip(entries, paths, strict=True) if path is None and e.kind in REQUIRED]
        if any(entry.kind == "text encoder" for entry in entries) and not _text_encoder(here, entries):
            lacking += [entry for entry in entries if entry.kind == "text encoder"]
        if lacking:
            files = ", ".join(entry.name for entry in lacking)
            size = gigabytes(sum(entry.num_bytes for entry in lacking))
            raise RequestError(
                f"model is '{name}', of which this machine lacks {files}; `soundstage models pull {name}` "
                f"fetches about {size}, `soundstage models add FOLDER` makes files known that are here",
                field="model",
            )
        text = _text_encoder(here, entries)
        rest = [p for e, p in zip(entries, paths, strict=True) if p is not None and e.kind != "text encoder"]
        return (*rest, *([text] if text else []))

    def _candidates(self) -> Iterator[tuple[str, Path]]:
        """Yield added files, then weights and model folders of all searched folders; each once."""
        named = (*self.paths, *(path for paths in self.models.values() for path in paths))
        searched = ((s.label, path) for s in self.searched_folders() for path in _walk(s.folder))
        seen: set[Path] = set()
        for label, path in (*(("added", path) for path in named if path.exists()), *searched):
            if path not in seen:
                seen.add(path)
                yield label, path


def models_folder() -> Path:
    """Return where downloads go."""
    return Path(platformdirs.user_data_dir("soundstage")) / "models"


def _check_name(name: str) -> None:
    if not name or os.sep in name or name.startswith((".", "-")):
        raise RequestError(f"name is '{name}'; give a word without slashes, such as my-ltx", field="name")
    if name in MODELS or any(name.lower() == entry.name.lower() for entry in FILES):
        raise RequestError(f"name is '{name}', which the catalogue has; give another", field="name")


def _first(here: dict[str, list[Found]], entry: CatalogFile) -> Path | None:
    copies = here.get(entry.name)
    return copies[0].path if copies else None


def _text_encoder(here: dict[str, list[Found]], entries: Sequence[CatalogFile]) -> Path | None:
    """Return the set's own form of Gemma, or any other that runs."""
    wanted = [entry for entry in entries if entry.kind == "text encoder"]
    if not wanted:
        return None
    others = [entry for entry in FILES if entry.kind == "text encoder" and entry.runs]
    paths = (_first(here, entry) for entry in (*wanted, *others))
    return next((path for path in paths if path is not None), None)


def _found(entry: CatalogFile, path: Path, label: str) -> Found:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    num_bytes = sum(file.stat().st_size for file in files)
    return Found(path, label, num_bytes, not entry.exact or num_bytes == entry.num_bytes)


def _entries(path: Path) -> list[CatalogFile]:
    """Return the catalogue's entries that a path is, by its name or its repository's."""
    if path.is_file():
        entry = by_file_name(path.name)
        own = [e for e in FILES if not e.is_folder and str(path).endswith(f"{e.repository}/{path.name}")]
        return [entry] if entry else [e for e in own if e.matches(path.name)]
    cached = path.parent.parent.name.removeprefix("models--").replace("--", "/")
    names = (cached, f"{path.parent.name}/{path.name}")
    return [
        e for e in FILES if e.is_folder and (e.repository in names or e.repository.split("/")[1] == path.name)
    ]


def _walk(folder: Path) -> Iterator[Path]:
    """Weights files below a folder, and folders that hold a whole model; links are followed once."""
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if "config.json" in files or "model_index.json" in files:
            yield Path(place)
        yield from (Path(place, name) for name in sorted(files) if name.endswith(SUFFIXES))


# --- other programs ---------------------------------------------------------------------------------


def _comfyui() -> list[SearchedFolder]:
    return [folder for home in _homes("COMFYUI_PATH", COMFYUI_HOMES) for folder in _of_comfyui(home)]


def _wangp() -> list[SearchedFolder]:
    return [folder for home in _homes("WANGP_PATH", WANGP_HOMES) for folder in _of_wangp(home)]


def _inside(added: SearchedFolder) -> list[SearchedFolder]:
    """Return an added folder, and where it keeps models elsewhere if it is another program's."""
    return [*_of_comfyui(added.folder), *_of_wangp(added.folder), added]


def _homes(variable: str, names: Sequence[str]) -> list[Path]:
    configured = os.environ.get(variable)
    return [*([Path(configured)] if configured else []), *(Path.home() / name for name in names)]


def _of_comfyui(home: Path) -> list[SearchedFolder]:
    """Return ComfyUI's models folder, and those of its extra_model_paths.yaml."""
    if not (home / "models").is_dir():
        return []
    folders = [home / "models", *_extra_model_paths(home / "extra_model_paths.yaml")]
    return [SearchedFolder("ComfyUI", folder) for folder in folders]


def _extra_model_paths(path: Path) -> Iterator[Path]:
    """ComfyUI's own way to name folders: sections with a base_path and lines of folders by kind."""
    try:
        sections = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        return
    for section in sections.values() if isinstance(sections, dict) else ():
        if not isinstance(section, dict):
            continue
        base = path.parent / Path(str(section.get("base_path", "."))).expanduser()
        lines = [
            line for key, value in section.items() if key != "base_path" for line in str(value).splitlines()
        ]
        yield from (base / line.strip() for line in lines if line.strip())


def _of_wangp(home: Path) -> list[SearchedFolder]:
    """Return WanGP's checkpoint folders, by its settings file, and its LoRAs."""
    if not (home / "ckpts").is_dir() and not (home / "wgp_config.json").is_file():
        return []
    folders: Any = None
    try:
        folders = json.loads((home / "wgp_config.json").read_text()).get("checkpoints_paths")
    except (OSError, ValueError, AttributeError, RecursionError):
        folders = None
    names = [str(folder) for folder in folders] if isinstance(folders, list) else ["ckpts"]
    return [SearchedFolder("WanGP", home / name) for name in (*names, "loras") if name != "."]


def hub_cache() -> Path:
    """Return where huggingface_hub keeps what other programs fetched."""
    if "HF_HUB_CACHE" in os.environ:
        return Path(os.environ["HF_HUB_CACHE"])
    home = os.environ.get("HF_HOME") or Path(
        os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "huggingface"
    )
    return Path(home) / "hub"
