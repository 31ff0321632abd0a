"""Collect the JSON-ready metadata of how a clip is made, and compare that of two takes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from soundstage import __version__
from soundstage.library.file_identity import file_digest, named_by_content
from soundstage.library.model_files import ModelSet
from soundstage.planning.plan import Plan, plan_metadata
from soundstage.rendering.loras import Attached
from soundstage.rendering.parts import ModelParts
from soundstage.request.recipes import names_file
from soundstage.weights.storage import Storage

MOST_TOLD = 3  # fields that differ
# What a user asked for, before what follows from it. Of later groups only the first that differs is told.
FIELD_GROUPS = (("request",), ("files", "model"), ("device", "dtype", "weights"), ("soundstage",))
MAX_LENGTH = 60  # of a value that is shown


class Placed(NamedTuple):
    """The device, the number format and the storage of weights that a plan is carried out with."""

    device: torch.device
    dtype: torch.dtype
    storage: Storage


def provenance(
    plan: Plan, model: ModelSet, parts: ModelParts, video: Tensor | None, audio: Tensor | None
) -> dict[str, Any]:
    """Return what was asked, what was done, and with which weights. video, audio: the clip's latents."""
    return {
        **clip_metadata(plan, model, Placed(parts.device, parts.dtype, parts.storage)),
        **asked_metadata(plan, model),
        "loras": [_lora_metadata(lora) for lora in parts.adaptation.attached.values()],
        "latents_sha256": latents_sha256({"video": video, "audio": audio}),
    }


def latents_sha256(latents: Mapping[str, Tensor | None]) -> dict[str, str]:
    """Return the hashes of a clip's latents, without those that are None."""
    return {name: _sha256(x) for name, x in latents.items() if x is not None}


def clip_metadata(plan: Plan, model: ModelSet, place: Placed) -> dict[str, Any]:
    """Return all that decides the numbers of a clip."""
    return {
        "soundstage": __version__,
        "request": plan.request.describe(),
        "model": plan.model,
        "files": model.hashes,
        "device": str(place.device),
        "dtype": str(place.dtype).removeprefix("torch."),
        "weights": place.storage,
        **plan_metadata(plan),
    }


def asked_metadata(plan: Plan, model: ModelSet) -> dict[str, Any]:
    """Return what making a clip again needs besides, and what does not decide its numbers.

    request: with files by their names. inputs: what each of them held. asked_model: the words for the model.
    """
    request = plan.request
    paths = [*request.files.values(), *([request.recipe] if names_file(request.recipe) else [])]
    return {
        "request": request.describe(),
        "inputs": {path: file_digest(Path(path)) for path in paths if Path(path).is_file()},
        "asked_model": list(model.asked),
    }


def take_metadata(plan: Plan, model: ModelSet, place: Placed) -> dict[str, Any]:
    """Return all that decides the numbers of a take's windows.

    Files are named by what they hold, so that they may be moved.
    """
    metadata = clip_metadata(plan, model, place)
    if metadata["request"]["take"] is not None:
        metadata["request"]["take"] = {**metadata["request"]["take"], "folder": None}
    found: dict[str, Any] = named_by_content(metadata, plan.request.files.values())
    return found


def lora_paths(plan: Plan) -> list[str]:
    """Return the files of all LoRAs of a plan, each once."""
    clips = (plan, *plan.clips)
    return list(dict.fromkeys(use.path for clip in clips for pass_ in clip.passes for use in pass_.loras))


def _lora_metadata(lora: Attached) -> dict[str, Any]:
    return {"path": lora.path, "sha256": lora.digest, **lora.report.summary()}


def _sha256(latents: Tensor) -> str:
    """Return the SHA-256 of the values as float32, little-endian, in row-major order."""
    return hashlib.sha256(latents.float().contiguous().cpu().numpy().astype("<f4").tobytes()).hexdigest()


# --- two takes


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Return sentences on fields of JSON-ready metadata that differ, such as "seed is 6, there it is 5".

    stored: what the folder has. asked: what the take to be made has.
    """
    rest = tuple({*stored, *asked} - {name for group in FIELD_GROUPS for name in group})
    for group in (*FIELD_GROUPS, rest):
        old, new = (
            dict(_leaves({k: metadata[k] for k in group if k in metadata})) for metadata in (stored, asked)
        )
        found = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        if found:
            told = [_sentence(key, old.get(key), new.get(key)) for key in found[:MOST_TOLD]]
            return told + ([f"{len(found) - MOST_TOLD} more"] if len(found) > MOST_TOLD else [])
    return []


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every single value with its place, such as "guides[0].strength"."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{name}[{index}]")
    else:
        yield name.removeprefix("request."), value


def _sentence(name: str, old: Any, new: Any) -> str:
    if name.startswith("files."):
        return f"the model's file {name.removeprefix('files.')} is another"
    if any(str(value).startswith("content ") for value in (old, new)):
        return f"{name} has another content"
    return f"{name} is {_shown(new)}, there it is {_shown(old)}"


def _shown(value: Any) -> str:
    text = "not given" if value is None else str(value)
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}..."
