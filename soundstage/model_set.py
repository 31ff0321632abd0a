"""A model on disk: where its parts are, what it is used with, and its parts built on first use.

A model is a folder, or the name of one that ships with Soundstage:

    transformer.safetensors   transformer, connectors and text projection
    video_vae.safetensors     encoder and decoder
    audio_vae.safetensors     audio VAE and vocoder
    text/                     a Hugging Face Gemma 3 folder
    bundle.json               optional: {"name": ..., "defaults": {...}} as in recipes.Defaults

Opening one reads file headers only; torch is loaded when the first part is built.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from soundstage.errors import RequestError, WeightsError
from soundstage.recipes import Defaults
from soundstage.weights.header import read_header

SHIPPED = {"nano": Path(__file__).parent / "nano" / "weights"}

TRANSFORMER, VIDEO_VAE, AUDIO_VAE = (
    "transformer.safetensors",
    "video_vae.safetensors",
    "audio_vae.safetensors",
)
TEXT = "text"
TEXT_FILES = ("config.json", "model.safetensors", "tokenizer.json")

_digests: dict[tuple[str, int, int], str] = {}


@dataclass(frozen=True)
class ModelFile:
    """One file of a model. num_bytes is None where the file is missing."""

    part: str
    path: Path
    num_bytes: int | None


@dataclass(frozen=True)
class ModelSet:
    """A model folder. `defaults` are the sizes, steps and guidance it is made for."""

    name: str
    folder: Path
    defaults: Defaults

    def files(self) -> tuple[ModelFile, ...]:
        """Every file the model needs, present or not."""
        wanted = [("transformer", TRANSFORMER), ("video VAE", VIDEO_VAE), ("audio VAE", AUDIO_VAE)]
        wanted += [("text encoder", f"{TEXT}/{name}") for name in TEXT_FILES]
        return tuple(_model_file(part, self.folder / name) for part, name in wanted)

    def check(self) -> None:
        """Raise WeightsError naming every missing file, or the first that is cut short."""
        missing = [str(file.path) for file in self.files() if file.num_bytes is None]
        if missing:
            raise WeightsError(
                f"model '{self.name}' lacks {', '.join(missing)}; put the file there or choose another model"
            )
        for file in self.files():
            if file.path.suffix == ".safetensors":
                read_header(file.path)

    @cached_property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each file by its name within the folder; a file is read once a process."""
        return {str(f.path.relative_to(self.folder)): _digest(f.path) for f in self.files() if f.num_bytes}


def find_model(name_or_path: str | Path) -> ModelSet:
    """The model of a shipped name or a folder.

    Raises RequestError for a name that is neither, ConfigError for a bundle.json that does not fit,
    WeightsError for files that are missing or cut short.
    """
    text = str(name_or_path)
    folder = SHIPPED.get(text, Path(text))
    if not folder.is_dir():
        if text in SHIPPED:
            raise WeightsError(f"the weights of '{text}' are not in {folder}; reinstall soundstage")
        raise RequestError(
            f"model is '{text}', which is neither a folder nor a known model; give a folder or one of: "
            f"{', '.join(SHIPPED)}",
            field="model",
        )
    bundle = _read_bundle(folder / "bundle.json")
    defaults = Defaults.from_dict(bundle.get("defaults", {}), str(folder / "bundle.json"))
    model = ModelSet(name=str(bundle.get("name", text)), folder=folder, defaults=defaults)
    model.check()
    return model


def _read_bundle(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        bundle = json.loads(path.read_text())
    except ValueError as error:
        raise WeightsError(f"{path} is not JSON ({error}); restore the file the model came with") from error
    if not isinstance(bundle, dict):
        raise WeightsError(f"{path} holds no JSON object; restore the file the model came with")
    return bundle


def _model_file(part: str, path: Path) -> ModelFile:
    return ModelFile(part, path, path.stat().st_size if path.is_file() else None)


def _digest(path: Path) -> str:
    stat = path.stat()
    key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    if key not in _digests:
        with path.open("rb") as file:
            _digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _digests[key]
