"""Tell encoders apart by their weights, wherever their files lie and however they are packed.

A dataset is encoded on one machine and trained on another, and the same VAE comes in files of its own and in
checkpoints of 46 GB. So a part is known by its tensors' names, formats, shapes and the first bytes of each:
enough to tell any two trainings of one structure apart, and read in a moment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from soundstage.fields.record import record
from soundstage.library.model_files import ModelSet
from soundstage.text.source import gemma_tensors
from soundstage.weights.header import read_header
from soundstage.weights.layouts import StoredTensor, find_parts

SAMPLE_BYTES = 1024  # of each tensor


@record
class ModelIdentity:
    """The encoders of a model, each known by a hash of its weights."""

    name: str
    "The model's name, for people."

    video_vae: str
    "Hash of the video VAE."

    audio_vae: str
    "Hash of the audio VAE."

    text: str
    "Hash of the text encoder and of the projection of its states."

    text_tokens: int
    "Tokens of a prompt's context, to which text features are filled up."


# What people call the parts, by the fields above.
PART_WORDS = {"video_vae": "video VAE", "audio_vae": "audio VAE", "text": "text encoder"}


def model_identity(model: ModelSet) -> ModelIdentity:
    """Return the identity of a model's encoders. Reads headers and little else; see engine.model.

    Raises WeightsError for files that are missing or damaged.
    """
    parts = find_parts([read_header(path) for path in model.weights_files])
    text = {f"gemma.{name}": tensor for name, tensor in gemma_tensors(model.text_path).items()}
    text |= {f"projection.{name}": tensor for name, tensor in parts["text_projection"].items()}
    return ModelIdentity(
        name=model.name,
        video_vae=_digest(parts["video_vae"]),
        audio_vae=_digest(parts["audio_vae"]),
        text=_digest(text),
        text_tokens=model.defaults.text_tokens,
    )


def _digest(tensors: Mapping[str, StoredTensor]) -> str:
    """Return the SHA-256 of names, formats, shapes and the beginnings of tensors."""
    by_path: dict[Path, list[tuple[str, StoredTensor]]] = {}
    for name, tensor in tensors.items():
        by_path.setdefault(tensor.path, []).append((name, tensor))
    lines: dict[str, bytes] = {}
    for path, stored in by_path.items():
        with path.open("rb") as file:
            for name, tensor in stored:
                file.seek(tensor.entry.offset)
                start = file.read(min(SAMPLE_BYTES, tensor.entry.num_bytes))
                lines[name] = f"{name} {tensor.entry.dtype} {tensor.entry.shape} ".encode() + start
    digest = hashlib.sha256()
    for name in sorted(lines):
        digest.update(lines[name])
    return digest.hexdigest()
