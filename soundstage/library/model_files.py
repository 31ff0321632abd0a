"""A model on disk: which files hold its parts, and what it is used with.

    find_model("nano")                                      # ships with Soundstage
    find_model("models/mine")                               # a folder, in any layout
    find_model("ltx-2.3-22b-dev.safetensors", text="gemma") # files, and the folder or file of Gemma 3

A folder of our own layout, a bundle:

    transformer.safetensors   transformer, connectors and text projection
    video_vae.safetensors     encoder and decoder
    audio_vae.safetensors     audio VAE and vocoder
    text/                     a Hugging Face Gemma 3 folder
    spatial_x2.safetensors    and the other names of EXTRAS: optional
    bundle.json               optional: {"name": ..., "defaults": {...}} as in recipes.Defaults, and
                              {"files": [paths]} for a model whose files lie elsewhere

Any other folder is looked through file by file: what a file holds is seen in its header, by
library/identify.py. Opening a model reads headers only; torch is loaded when the first part is built.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast, get_args

from soundstage.errors import ConfigError, RequestError, WeightsError, listed
from soundstage.library.catalog import find
from soundstage.library.file_identity import file_digest, file_identity
from soundstage.library.identify import SUFFIXES, Description, scan
from soundstage.library.installed import Library
from soundstage.lora.metadata import read_references
from soundstage.model.config import TextProjectionConfig
from soundstage.request.defaults import Defaults
from soundstage.sampling.scales import NEUTRAL
from soundstage.text.source import check_headers, gemma_files, tokenizer_file
from soundstage.types import UPSAMPLERS, UpsamplerRole
from soundstage.weights.configs import completed, model_config, part_config, upsampler_config
from soundstage.weights.dtypes import check_dtypes
from soundstage.weights.header import is_there, read_header, shards
from soundstage.weights.layouts import PARTS, StoredTensor, find_parts

SHIPPED_MODELS = {"nano": Path(__file__).parents[1] / "nano" / "weights"}

TRANSFORMER, VIDEO_VAE, AUDIO_VAE = (
    "transformer.safetensors",
    "video_vae.safetensors",
    "audio_vae.safetensors",
)
TEXT = "text"
TEXT_FILES = ("config.json", "model.safetensors", "tokenizer.json")

# Files beside a model's own that some recipes need: role -> (name in a bundle, what it is).
EXTRAS = {
    "distilled": ("distilled_lora.safetensors", "distilled LoRA"),
    "space-x2": ("spatial_x2.safetensors", "spatial x2 upsampler"),
    "space-x1.5": ("spatial_x1_5.safetensors", "spatial x1.5 upsampler"),
    "time-x2": ("temporal_x2.safetensors", "temporal x2 upsampler"),
    "preview": ("preview_vae.safetensors", "preview VAE"),
}

# The published distilled model: eight fixed steps without guidance.
DISTILLED_DEFAULTS = replace(
    Defaults(), distilled=True, schedule="distilled", steps=8, video=NEUTRAL, audio=NEUTRAL
)


@dataclass(frozen=True)
class ModelFile:
    """One file of a model. num_bytes is None where the file is missing."""

    part: str
    path: Path
    num_bytes: int | None


@dataclass(frozen=True)
class ModelSet:
    """The files of a model's parts. `defaults` are the sizes, steps and guidance it is made for.

    weights: (what it holds, file) of each file with parts of LTX-2.3. text: the folder or file of Gemma 3.
    found: extras by role. What is left out is where a bundle has it. notices: what a user should know of the
    files, found by `check`: config keys that they lack, and what is taken instead. asked: the name or paths
    that it was asked for by.
    """

    name: str
    folder: Path
    defaults: Defaults
    weights: tuple[tuple[str, Path], ...] = ()
    text: Path | None = None
    found: Mapping[str, Path] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.weights:
            bundle = (("transformer", TRANSFORMER), ("video VAE", VIDEO_VAE), ("audio VAE", AUDIO_VAE))
            files = tuple((part, self.folder / name) for part, name in bundle)
            object.__setattr__(self, "weights", files)

    @property
    def weights_files(self) -> tuple[Path, ...]:
        """Return the files with parts of LTX-2.3."""
        return tuple(path for _, path in self.weights)

    @property
    def text_path(self) -> Path:
        """Return the folder or file of the text encoder."""
        return self.folder / TEXT if self.text is None else self.text

    def files(self) -> tuple[ModelFile, ...]:
        """Return every file the model needs, present or not."""
        text = (("text encoder", path) for path in _text_files(self.text_path))
        return tuple(_model_file(part, path) for part, path in (*self.weights, *text))

    def extra(self, role: str) -> ModelFile:
        """Return the file of a role in EXTRAS, present or not."""
        name, what = EXTRAS[role]
        return _model_file(what, self.found.get(role, self.folder / name))

    def check(self) -> None:
        """Check all that headers say, before any weight is read.

        Raises WeightsError naming every missing file, or the first that is damaged or cut short, is of
        another model or quantized in a way that is not read, and ConfigError for a config that is incomplete
        or of another model.
        """
        missing = [str(file.path) for file in self.files() if file.num_bytes is None]
        if missing:
            raise WeightsError(
                f"model '{self.name}' lacks {', '.join(missing)}; put the file there or choose another model"
            )
        files = [read_header(path) for path in self.weights_files]
        parts, config = find_parts(files), model_config(files)
        for part in PARTS:
            if not parts.get(part):
                paths = ", ".join(str(path) for path in self.weights_files)
                raise WeightsError(f"no file of model '{self.name}' holds the {part} (files: {paths})")
            check_dtypes(parts[part])
            found = part_config(part, parts, config)
            if isinstance(found, TextProjectionConfig):
                check_headers(self.text_path, found.text_width, found.num_states)
        notices = tuple(f"model '{self.name}': {notice}" for notice in completed(config, parts)[1])
        object.__setattr__(self, "notices", notices)

    def check_extra(self, role: str) -> None:
        """Check by its header that the file of a role in EXTRAS, which is there, is what it should be.

        Raises WeightsError or ConfigError, also for an upsampler of another kind.
        """
        path = self.extra(role).path
        if role == "distilled":
            read_references(str(path))
        elif role in get_args(UpsamplerRole):
            file, (kind, factor) = read_header(path), UPSAMPLERS[cast(UpsamplerRole, role)]
            found = upsampler_config(file)
            if (found.kind, Fraction(*found.scale)) != (kind, factor):
                raise WeightsError(
                    f"{path} is an upsampler of {found.kind} by {found.scale[0]}/{found.scale[1]}, where one "
                    f"of {kind} by {factor.numerator}/{factor.denominator} is needed; put the right file "
                    "there"
                )
            check_dtypes({name: StoredTensor(path, name, entry) for name, entry in file.tensors.items()})

    @property
    def hashes(self) -> dict[str, str]:
        """Return what each file is known by, under its name within the folder or its own name.

        See `file_digest`.
        """
        found: dict[str, str] = {}
        for file in self.files():
            if file.num_bytes:
                name = _short_name(file.path, self.folder)
                found[str(file.path) if name in found else name] = file_digest(file.path)
        return found

    @property
    def contents(self) -> dict[Path, str]:
        """Return the `file_identity` of each of the model's files now, extras included."""
        files = [*self.files(), *(self.extra(role) for role in EXTRAS)]
        return {file.path: file_identity(file.path) for file in files if file.num_bytes is not None}

    @property
    def text_identity(self) -> tuple[str, ...]:
        """Return the identity of the text encoder's files, with the tokenizer beside a single file."""
        files = _text_files(self.text_path)
        if self.text_path.is_file():
            files = [*shards(self.text_path), tokenizer_file(self.text_path.parent)]
        return tuple(file_identity(path) for path in files if path.is_file())


def weights_of(name: str) -> list[Path]:
    """Return the weights files of a model's name, folder or file; of one file alone, that file."""
    path = Path(name)
    return [path] if path.is_file() else list(find_model(name).weights_files)


def find_model(model: str | Path | Sequence[str | Path], *, text: str | Path | None = None) -> ModelSet:
    """Return the model of a shipped, added or published name, a folder, a file, or several files and folders.

    text: the folder or file of Gemma 3, if it is neither among them nor next to them. Raises RequestError for
    what is neither a path nor a name and for a choice that is left open, ConfigError for a bundle.json that
    does not fit, WeightsError for files that are missing, cut short, or of another model.
    """
    if not isinstance(model, str | Path):
        files = [] if isinstance(model, bytes) or not isinstance(model, Iterable) else list(model)
        if not files or not all(isinstance(file, str | Path) for file in files):
            raise RequestError(f"model is {model!r}; give a name, a folder, a file or a list", field="model")
        model = files
        return _from_files([Path(path) for path in model], text)
    if not str(model):
        raise RequestError("model is ''; give a name, a folder or a weights file", field="model")
    path = SHIPPED_MODELS.get(str(model), Path(model))
    if is_there(path) and path.is_file():
        return _from_files([path], text)
    if not path.exists() and str(model) not in SHIPPED_MODELS:
        added = Library.open().lookup(str(model))
        if added is not None:
            found = find_model(added[0] if len(added) == 1 else added, text=text)
            return replace(found, name=str(model))
    if not path.is_dir():
        if str(model) in SHIPPED_MODELS:
            raise WeightsError(f"the weights of '{model}' are not in {path}; reinstall soundstage")
        known = listed(str(model), [*SHIPPED_MODELS, *Library.open().names(str(model))])
        raise RequestError(
            f"model is '{model}', which is neither a folder, a file nor a known model; give a folder, a "
            f"weights file or one of: {known}",
            field="model",
        )
    return _from_folder(path, str(model), text)


def named_paths(name: str, library: Library) -> list[Path]:
    """Return the files and folders that a name means: a path, an added or shipped model, a published name.

    Raises RequestError for an unknown name, WeightsError for a published one of which nothing is here.
    """
    if Path(name).is_symlink() or is_there(Path(name)):
        return [Path(name)]
    if name in library.models:
        return library.models[name]
    if name in SHIPPED_MODELS:
        return [SHIPPED_MODELS[name]]
    try:
        entries = find(name)
    except RequestError as error:
        known = listed(name, [*SHIPPED_MODELS, *library.names(name)])
        raise RequestError(
            f"'{name}' is no file, no folder and no known model; the models are {known}; "
            "`soundstage models list` shows every file by name"
        ) from error
    found = library.find()
    paths = [copy.path for entry in entries for copy in found.get(entry.name, ())]
    if not paths:
        raise WeightsError(
            f"nothing of '{name}' is on this machine; `soundstage models pull {name}` fetches it"
        )
    return paths


def add_model(library: Library, paths: Sequence[Path], name: str) -> None:
    """Remember files and folders as one model; one that cannot be opened raises and is not kept."""
    library.add(paths, name)
    try:
        find_model(name)
    except Exception:
        library.forget(name)
        raise


def _from_folder(folder: Path, name: str, text: str | Path | None) -> ModelSet:
    bundle = _read_bundle(folder / "bundle.json")
    name = str(bundle.get("name", name))
    defaults = None
    if "defaults" in bundle:
        defaults = Defaults.from_dict(bundle["defaults"], str(folder / "bundle.json"))
    if "files" in bundle:
        if not isinstance(bundle["files"], list) or not all(isinstance(p, str) for p in bundle["files"]):
            raise ConfigError(f'{folder / "bundle.json"}: files is no list of paths; give ["FILE", ...]')
        found = _from_files([folder / path for path in bundle["files"]], text)
        return replace(found, name=name, folder=folder, defaults=defaults or found.defaults)
    if not os.path.lexists(folder / TRANSFORMER) and _has_weights(folder):
        found = _from_files([folder], text)
        return replace(found, name=name, defaults=defaults or found.defaults)
    own = {TRANSFORMER, VIDEO_VAE, AUDIO_VAE, *(file for file, _ in EXTRAS.values())}
    others = _scan_quietly(path for path in sorted(folder.glob("*.safetensors")) if path.name not in own)
    model = ModelSet(
        name,
        folder,
        defaults or Defaults(),
        text=None if text is None else Path(text),
        found=_extras(others),
    )
    model.check()
    return model


def _has_weights(folder: Path) -> bool:
    return any(path.suffix in SUFFIXES for path in folder.rglob("*"))


def _from_files(paths: Sequence[Path], text: str | Path | None) -> ModelSet:
    """Return a model from files and folders in any layout."""
    scanned = [(path, description) for path in paths for description in scan(path)]
    found = [d for path, d in scanned if _usable(d, named=path.is_file())]
    holders = _holders(found, [d for _, d in scanned if d.refusal is not None], paths)
    weights = list(dict.fromkeys(holders.values()))  # Description is compared by identity of its files
    transformer = holders["transformer"]
    folder = paths[0] if paths[0].is_dir() else paths[0].parent
    extras = _extras([*_beside(paths), *found])
    model = ModelSet(
        name=paths[0].stem if paths[0].is_file() else paths[0].name,
        folder=folder,
        defaults=DISTILLED_DEFAULTS if transformer.distilled else Defaults(),
        weights=tuple((_label(d), path) for d in weights for path in d.files),
        text=_text_path(found, paths, text),
        found=extras,
    )
    model.check()
    return model


def _usable(description: Description, *, named: bool) -> bool:
    """Return whether to use a checkpoint. Raises WeightsError for an unusable one whose file was named."""
    if description.refusal is not None and named:
        raise WeightsError(f"{description.refusal}; give the files of an LTX-2.3 model")
    return description.refusal is None


def _holders(
    found: Iterable[Description], refused: Sequence[Description], paths: Sequence[Path]
) -> dict[str, Description]:
    """Return the checkpoint of each part. Raises RequestError for two of one part, WeightsError for none.

    refused: those that were left out, the likely reason for a part that is missing.
    """
    holders: dict[str, Description] = {}
    for description in found:
        for part in description.part_names if description.kind == "model" else ():
            if part in holders:
                raise RequestError(
                    f"the {part} is in {holders[part].files[0]} and in {description.files[0]}; give the "
                    "files to use instead of their folder",
                    field="model",
                )
            holders[part] = description
    missing = [part for part in PARTS if part not in holders]
    if missing:
        left_out = next((f" ({d.refusal})" for d in refused), "")
        raise WeightsError(
            f"{', '.join(str(path) for path in paths)} holds no {' and no '.join(missing)}{left_out}; add "
            "the file that does: a whole LTX-2.3 checkpoint, or transformer, text projection and both VAEs"
        )
    return holders


def _label(description: Description) -> str:
    return ", ".join(part.replace("_", " ").replace("vae", "VAE") for part in description.part_names)


def _text_path(found: Iterable[Description], paths: Sequence[Path], text: str | Path | None) -> Path:
    """Gemma's folder or file: as given, among what was found, or next to it."""
    if text is not None:
        return Path(text)
    for description in (*found, *_text_beside(paths)):
        if description.kind == "text encoder":
            first = description.files[0]
            return first.parent if (first.parent / "config.json").is_file() else first
    raise WeightsError(
        f"there is no Gemma 3 in or next to {', '.join(str(path) for path in paths)}; "
        "give its folder or file too (a gemma-3-12b-it folder, or Comfy's gemma_3_12B_it file)"
    )


def _beside(paths: Sequence[Path]) -> list[Description]:
    """Checkpoints next to named files. A damaged neighbour is nobody's business here."""
    folders = dict.fromkeys(path.parent for path in paths if path.is_file())
    return _scan_quietly(file for folder in folders for file in sorted(folder.glob("*.safetensors")))


def _text_beside(paths: Sequence[Path]) -> list[Description]:
    folders = dict.fromkeys(path.parent if path.is_file() else path for path in paths)
    places = [place for folder in folders for place in sorted(folder.iterdir())]
    return _scan_quietly(p for p in places if "gemma" in p.name.lower() or p.name.startswith("text"))


def _scan_quietly(paths: Iterable[Path]) -> list[Description]:
    found = []
    for path in paths:
        try:
            found += scan(path)
        except WeightsError:
            continue
    return found


def _extras(found: Iterable[Description]) -> dict[str, Path]:
    """Optional files by role; of two of one role the last, which is the newer version by its name."""
    extras: dict[str, Path] = {}
    for description in found:
        if description.refusal is not None:
            continue
        role: str | None = description.role
        if description.kind == "LoRA" and description.distilled:
            role = "distilled"
        if description.kind == "preview VAE":
            role = "preview"
        if role is not None:
            extras[role] = description.files[0]
    return extras


def _text_files(path: Path) -> list[Path]:
    """Return the files read for a text encoder: one file, or a folder's weights and tokenizer."""
    if path.is_file():
        return [path]
    return [path / "config.json", *gemma_files(path), tokenizer_file(path)]


def _short_name(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name


def _read_bundle(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        bundle = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not JSON ({error}); restore the file the model came with") from error
    if not isinstance(bundle, dict):
        raise WeightsError(f"{path} holds no JSON object; restore the file the model came with")
    return bundle


def _model_file(part: str, path: Path) -> ModelFile:
    return ModelFile(part, path, path.stat().st_size if path.is_file() else None)
