"""Pictures and clips that a call is given, as guides and references of a Request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from soundstage.compat.diffusers.telling import whole
from soundstage.errors import RequestError, shown
from soundstage.media.in_memory import is_media
from soundstage.media.pixels import rgb_pixels
from soundstage.request.inputs import Guide, Reference
from soundstage.types import TIME_SCALE


@dataclass(frozen=True)
class LTX2VideoCondition:
    """Frames that the result shows from a latent frame on. index: counts latents of 8 frames, -1 the last."""

    frames: Any
    index: int = 0
    strength: float = 1.0
    crf: int | None = None


@dataclass(frozen=True)
class LTX2ReferenceCondition:
    """A clip that the result follows without showing it, as in-context LoRAs use it."""

    frames: Any
    strength: float = 1.0


@dataclass(frozen=True)
class LTXVideoCondition:
    """A picture or clip that the result shows from a frame on."""

    image: Any = None
    video: Any = None
    frame_index: int = 0
    strength: float = 1.0


def in_conditions(words: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call with lists of frame_index or strength read as conditions.

    image and video are then lists too, as LTX-Video's pipeline has them. Raises RequestError for lists of
    different lengths.
    """
    many = {name: words[name] for name in ("frame_index", "strength") if isinstance(words.get(name), list)}
    if not many:
        return dict(words)
    count = len(next(iter(many.values())))
    given = {name: words[name] for name in ("image", "video", "frame_index", "strength") if name in words}
    lists = {name: value if isinstance(value, list) else [value] * count for name, value in given.items()}
    for name, values in lists.items():
        if len(values) != count:
            raise RequestError(
                f"{name} has {len(values)} entries, and {next(iter(many))} {count}; give one for each",
                field=name,
            )
    rest = {name: value for name, value in words.items() if name not in given}
    entries = [{name: values[i] for name, values in lists.items()} for i in range(count)]
    rest["conditions"] = [LTXVideoCondition(**entry) for entry in entries] + list(
        _listed(words.get("conditions"))
    )
    return rest


def guides_of(words: Mapping[str, Any], image: Any, num_frames: int) -> list[Guide]:
    """Return the guides of a call. image: this clip's. num_frames: its length."""
    frame, strength = words.get("frame_index") or 0, words.get("strength")
    placed: dict[str, Any] = {"frame": frame, "strength": 1.0 if strength is None else strength}
    guides = []
    if image is not None:
        guides.append(Guide(media_of(image, "image"), crf=words.get("image_crf"), **placed))
    if words.get("video") is not None:
        guides.append(Guide(media_of(words["video"], "video"), **placed))
    return [*guides, *(_guide(one, num_frames) for one in _listed(words.get("conditions")))]


def references_of(words: Mapping[str, Any]) -> list[Reference]:
    """Return the references of a call."""
    given = _listed(words.get("reference_conditions"))
    shared: dict[str, Any] = {}
    if words.get("reference_downscale_factor") is not None:
        shared["downscale"] = words["reference_downscale_factor"]
    if words.get("conditioning_attention_strength") is not None:
        shared["attention"] = words["conditioning_attention_strength"]
    if words.get("conditioning_attention_mask") is not None:
        shared["mask"] = _mask(words["conditioning_attention_mask"])
    for one in given:
        if not hasattr(one, "frames") or not hasattr(one, "strength"):
            raise RequestError(
                f"reference_conditions has {shown(one)}; give LTX2ReferenceCondition(frames=...)",
                field="reference_conditions",
            )
    return [Reference(media_of(c.frames, "frames"), strength=c.strength, **shared) for c in given]


def media_of(value: Any, name: str) -> Any:
    """Return a picture or clip as a Request takes it: a list of pictures as one array.

    name: the word, for messages. Raises RequestError for pictures of different sizes.
    """
    if not isinstance(value, (list, tuple)):
        if not isinstance(value, (str, Path)) and not is_media(value):
            raise RequestError(f"{name} is {shown(value)}; give pictures, an array or a file", field=name)
        return _without_batch(value)
    if len(value) == 1 and isinstance(value[0], (list, tuple)):  # a batch of one clip
        value = value[0]
    frames = [np.asarray(one.detach().cpu()) if hasattr(one, "detach") else one for one in value]
    pixels = [frame if isinstance(frame, np.ndarray) else _picture(frame, name) for frame in frames]
    if len({frame.shape for frame in pixels}) != 1:
        raise RequestError(
            f"{name} has no pictures, or some of different sizes; give frames of one size", field=name
        )
    return np.stack(pixels) if len(pixels) > 1 else pixels[0]


def _without_batch(value: Any) -> Any:
    """Return a picture or clip (1, ...) without its axis of batches."""
    shape: Any = getattr(value, "shape", ())
    return value[0] if len(shape) == 5 or (len(shape) == 4 and shape[0] == 1) else value


def _picture(frame: Any, name: str) -> Any:
    if not is_media(frame):
        raise RequestError(f"{name} has {shown(frame)}; give PIL pictures or arrays", field=name)
    return rgb_pixels(frame)


def _guide(condition: Any, num_frames: int) -> Guide:
    if hasattr(condition, "frame_index"):
        shown_frames = condition.image if condition.video is None else condition.video
        media, frame = media_of(shown_frames, "conditions"), condition.frame_index
    elif hasattr(condition, "frames") and hasattr(condition, "index"):
        media = media_of(condition.frames, "conditions")
        frame = _frame_of(condition.index, (num_frames - 1) // TIME_SCALE + 1)
    else:
        raise RequestError(
            f"conditions has {shown(condition)}; give LTX2VideoCondition(frames=..., index=...)",
            field="conditions",
        )
    return Guide(media, frame=frame, strength=condition.strength, crf=getattr(condition, "crf", None))


def _frame_of(index: Any, num_latents: int) -> int:
    """Return the first frame of a latent. index: negative from the end."""
    place = whole(index, "index")
    if not -num_latents <= place < num_latents:
        raise RequestError(
            f"index is {place}, but the clip has {num_latents} latent frames; give 0 to {num_latents - 1}, "
            "or -1 for the last",
            field="conditions",
        )
    return max(0, (place % num_latents - 1) * TIME_SCALE + 1)


def _mask(value: Any) -> Any:
    """Return a mask (1, 1, F, H, W) in [0, 1] as a clip of grey frames."""
    frames = np.asarray(value.detach().cpu().float() if hasattr(value, "detach") else value)
    if frames.ndim == 5 and frames.shape[:2] == (1, 1):
        return np.repeat(frames[0, 0, ..., None].astype(np.float32), 3, axis=-1)
    return value


def _listed(value: Any) -> Sequence[Any]:
    return () if value is None else value if isinstance(value, (list, tuple)) else (value,)
