"""What a clip remembers of how it was made, and what tells one long take from another. JSON-ready."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from soundstage import __version__
from soundstage.library.model_files import ModelSet, file_identity
from soundstage.media.in_memory import InMemory
from soundstage.planning.plan import Plan, plan_facts
from soundstage.request.request import Request
from soundstage.weights.storage import Storage

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from soundstage.rendering.loras import Attached
    from soundstage.rendering.parts import ModelParts


class Place(NamedTuple):
    """Where and in which numbers a plan is carried out."""

    device: torch.device
    dtype: torch.dtype
    storage: Storage


def provenance(
    plan: Plan, model: ModelSet, parts: ModelParts, video: Tensor | None, audio: Tensor | None
) -> dict[str, Any]:
    """Return what was asked, what was done, with which weights. video, audio: the clip's latents."""
    latents = {"video": video, "audio": audio}
    return {
        **clip_facts(plan, model, Place(parts.device, parts.dtype, parts.storage)),
        "loras": [_lora_facts(lora) for lora in parts.adaptation.attached.values()],
        "latents_sha256": {name: _sha256(x) for name, x in latents.items() if x is not None},
    }


def clip_facts(plan: Plan, model: ModelSet, place: Place) -> dict[str, Any]:
    """Return all that decides the numbers of a clip."""
    return {
        "soundstage": __version__,
        "request": plan.request.describe(),
        "model": plan.model,
        "files": model.hashes,
        "device": str(place.device),
        "dtype": str(place.dtype).removeprefix("torch."),
        "weights": place.storage,
        **plan_facts(plan),
    }


def take_facts(plan: Plan, model: ModelSet, place: Place) -> dict[str, Any]:
    """Return all that decides the numbers of a take's windows. Files are told by what they hold, wherever
    they are."""
    facts = clip_facts(plan, model, place)
    if facts["request"]["take"] is not None:
        facts["request"]["take"] = {**facts["request"]["take"], "folder": None}
    found: dict[str, Any] = _replaced(facts, {path: _content(path) for path in input_paths(plan.request)})
    return found


def input_paths(request: Request) -> list[str]:
    """Return the files that a request names: pictures, clips, masks, sounds and LoRAs."""
    source, audio = request.source, request.audio
    files = [guide.image for guide in request.guides]
    files += [file for reference in request.references for file in (reference.video, reference.mask)]
    files += [] if source is None else [source.video, source.audio, source.mask]
    files += [] if audio is None else [audio.file]
    files += [lora.path for lora in request.loras]
    return [file for file in files if file is not None and not isinstance(file, InMemory)]


def lora_paths(plan: Plan) -> list[str]:
    """Return the files of all LoRAs of a plan, each once."""
    clips = (plan, *plan.clips)
    return list(dict.fromkeys(use.path for clip in clips for pass_ in clip.passes for use in pass_.loras))


def _content(path: str) -> str:
    """What a file holds; a name of its own for one that is not there, which reading it will tell."""
    file = Path(path)
    return f"content {file_identity(file)}" if file.is_file() else f"no file {path}"


def _replaced(value: Any, names: Mapping[str, str]) -> Any:
    """A JSON value with every string that is a key of names exchanged."""
    if isinstance(value, Mapping):
        return {key: _replaced(item, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


def _lora_facts(lora: Attached) -> dict[str, Any]:
    return {"path": lora.path, "sha256": lora.digest, **lora.report.summary()}


def _sha256(latents: Tensor) -> str:
    """Of the values as float32, little-endian, in row-major order."""
    return hashlib.sha256(latents.float().contiguous().cpu().numpy().astype("<f4").tobytes()).hexdigest()
